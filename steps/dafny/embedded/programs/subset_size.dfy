// A subset has no more elements, by taking one away from both.
lemma SubsetIsSmaller(a: set<int>, b: set<int>)
  requires a <= b
  ensures |a| <= |b|
  decreases |a|
{
  if a != {} {
    var x :| x in a;
    assert a - {x} <= b - {x};
    SubsetIsSmaller(a - {x}, b - {x});
    assert |a - {x}| == |a| - 1;
    assert |b - {x}| == |b| - 1;
  }
}
