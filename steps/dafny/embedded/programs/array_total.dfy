// The sum of an array is that of its prefixes, one element longer each time.
function Total(s: seq<int>): int {
  if |s| == 0 then 0 else Total(s[..|s| - 1]) + s[|s| - 1]
}

method Sum(a: array<int>) returns (sum: int)
  ensures sum == Total(a[..])
{
  sum := 0;
  var i := 0;
  while i < a.Length
    invariant 0 <= i <= a.Length
    invariant sum == Total(a[..i])
  {
    assert a[..i + 1][..i] == a[..i];
    sum := sum + a[i];
    i := i + 1;
  }
  assert a[..i] == a[..];
}
