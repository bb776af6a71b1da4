// Whether a text reads the same from both ends.
method IsPalindrome(s: string) returns (yes: bool)
  ensures yes ==> forall k :: 0 <= k < |s| ==> s[k] == s[|s| - 1 - k]
{
  var i, j := 0, |s| - 1;
  while i < j
    invariant 0 <= i <= |s|
    invariant i + j == |s| - 1
    invariant forall k :: 0 <= k < i ==> s[k] == s[|s| - 1 - k]
  {
    if s[i] != s[j] {
      return false;
    }
    i := i + 1;
    j := j - 1;
  }
  assert forall k :: 0 <= k < |s| && k >= i ==> |s| - 1 - k <= i;
  return true;
}
