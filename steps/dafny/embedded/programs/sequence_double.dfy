// A sequence whose elements are those of another, doubled.
method Double(s: seq<int>) returns (doubled: seq<int>)
  ensures |doubled| == |s|
  ensures forall k :: 0 <= k < |s| ==> doubled[k] == 2 * s[k]
{
  doubled := [];
  var i := 0;
  while i < |s|
    invariant 0 <= i <= |s|
    invariant |doubled| == i
    invariant forall k :: 0 <= k < i ==> doubled[k] == 2 * s[k]
  {
    doubled := doubled + [2 * s[i]];
    i := i + 1;
  }
}
