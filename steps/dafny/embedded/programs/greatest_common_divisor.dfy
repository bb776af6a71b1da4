// Euclid's algorithm by subtraction, against its recursive definition.
function Gcd(a: nat, b: nat): nat
  requires a > 0 && b > 0
  decreases a + b
{
  if a == b then a
  else if a > b then Gcd(a - b, b)
  else Gcd(a, b - a)
}

method Euclid(a: nat, b: nat) returns (divisor: nat)
  requires a > 0 && b > 0
  ensures divisor == Gcd(a, b)
{
  var x, y := a, b;
  while x != y
    invariant x > 0 && y > 0
    invariant Gcd(x, y) == Gcd(a, b)
    decreases x + y
  {
    if x > y {
      x := x - y;
    } else {
      y := y - x;
    }
  }
  divisor := x;
}
