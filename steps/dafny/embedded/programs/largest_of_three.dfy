// The largest of three numbers.
method Largest(a: int, b: int, c: int) returns (m: int)
  ensures m >= a && m >= b && m >= c
  ensures m in {a, b, c}
{
  m := if a >= b then a else b;
  assert m >= a && m >= b;
  if c > m {
    m := c;
  }
}
