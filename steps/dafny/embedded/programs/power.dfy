// A power by repeated multiplication.
function Power(base: int, exponent: nat): int {
  if exponent == 0 then 1 else base * Power(base, exponent - 1)
}

method Raise(base: int, exponent: nat) returns (result: int)
  ensures result == Power(base, exponent)
{
  result := 1;
  var done := 0;
  while done < exponent
    invariant 0 <= done <= exponent
    invariant result == Power(base, done)
  {
    result := result * base;
    done := done + 1;
  }
}
