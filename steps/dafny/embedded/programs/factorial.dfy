// The factorial, counted downwards: what is left to multiply is the factorial of i.
function Factorial(n: nat): nat {
  if n == 0 then 1 else n * Factorial(n - 1)
}

method ComputeFactorial(n: nat) returns (product: nat)
  ensures product == Factorial(n)
{
  product := 1;
  var i := n;
  while i > 0
    invariant 0 <= i <= n
    invariant product * Factorial(i) == Factorial(n)
  {
    product := product * i;
    i := i - 1;
  }
}
