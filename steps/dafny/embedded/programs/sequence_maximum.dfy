// The largest number of a sequence that is not empty.
method Maximum(s: seq<int>) returns (m: int)
  requires |s| > 0
  ensures m in s
  ensures forall k :: 0 <= k < |s| ==> s[k] <= m
{
  m := s[0];
  for i := 1 to |s|
    invariant m in s
    invariant forall k :: 0 <= k < i ==> s[k] <= m
  {
    if s[i] > m {
      m := s[i];
    }
  }
}
