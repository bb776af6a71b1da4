// Two neighbours of the Fibonacci numbers move along together.
function Fib(n: nat): nat {
  if n < 2 then n else Fib(n - 1) + Fib(n - 2)
}

method Fibonacci(n: nat) returns (current: nat)
  ensures current == Fib(n)
{
  current := 0;
  var next := 1;
  var i := 0;
  while i < n
    invariant 0 <= i <= n
    invariant current == Fib(i)
    invariant next == Fib(i + 1)
  {
    current, next := next, current + next;
    i := i + 1;
  }
}
