// Two sorted sequences become one.
predicate Sorted(s: seq<int>) {
  forall i, j :: 0 <= i < j < |s| ==> s[i] <= s[j]
}

method Merge(a: seq<int>, b: seq<int>) returns (merged: seq<int>)
  requires Sorted(a) && Sorted(b)
  ensures Sorted(merged)
  ensures multiset(merged) == multiset(a) + multiset(b)
{
  merged := [];
  var i, j := 0, 0;
  while i < |a| || j < |b|
    invariant 0 <= i <= |a| && 0 <= j <= |b|
    invariant Sorted(merged)
    invariant forall k, l :: 0 <= k < |merged| && i <= l < |a| ==> merged[k] <= a[l]
    invariant forall k, l :: 0 <= k < |merged| && j <= l < |b| ==> merged[k] <= b[l]
    invariant multiset(merged) == multiset(a[..i]) + multiset(b[..j])
    decreases |a| - i + |b| - j
  {
    if j == |b| || (i < |a| && a[i] <= b[j]) {
      assert a[..i + 1] == a[..i] + [a[i]];
      merged := merged + [a[i]];
      i := i + 1;
    } else {
      assert b[..j + 1] == b[..j] + [b[j]];
      merged := merged + [b[j]];
      j := j + 1;
    }
  }
  assert a[..i] == a && b[..j] == b;
}
