// The set of the elements of a sequence.
method ToSet(s: seq<int>) returns (elements: set<int>)
  ensures forall x :: x in elements <==> x in s
{
  elements := {};
  var i := 0;
  while i < |s|
    invariant 0 <= i <= |s|
    invariant forall x :: x in elements <==> x in s[..i]
  {
    elements := elements + {s[i]};
    i := i + 1;
  }
  assert s[..i] == s;
}
