// Division with remainder by repeated subtraction.
method Divide(number: nat, divisor: nat) returns (quotient: nat, remainder: nat)
  requires divisor > 0
  ensures number == quotient * divisor + remainder
  ensures remainder < divisor
{
  quotient := 0;
  remainder := number;
  while remainder >= divisor
    invariant number == quotient * divisor + remainder
  {
    remainder := remainder - divisor;
    quotient := quotient + 1;
  }
}
