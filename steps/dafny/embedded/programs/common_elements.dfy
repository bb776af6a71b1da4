// The elements of a sequence that a set holds, too.
method Common(s: seq<int>, allowed: set<int>) returns (found: set<int>)
  ensures forall x :: x in found ==> x in s && x in allowed
  ensures forall k :: 0 <= k < |s| && s[k] in allowed ==> s[k] in found
{
  found := {};
  var i := 0;
  while i < |s|
    invariant 0 <= i <= |s|
    invariant forall x :: x in found ==> x in s && x in allowed
    invariant forall k :: 0 <= k < i && s[k] in allowed ==> s[k] in found
  {
    if s[i] in allowed {
      found := found + {s[i]};
    }
    i := i + 1;
  }
}
