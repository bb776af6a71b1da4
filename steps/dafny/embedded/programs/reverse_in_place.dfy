// The elements of an array in reverse order, by swapping from both ends.
method Reverse(a: array<int>)
  modifies a
  ensures forall k :: 0 <= k < a.Length ==> a[k] == old(a[a.Length - 1 - k])
{
  var left, right := 0, a.Length - 1;
  while left < right
    invariant 0 <= left <= a.Length
    invariant left + right == a.Length - 1
    invariant forall k :: 0 <= k < left || right < k < a.Length ==> a[k] == old(a[a.Length - 1 - k])
    invariant forall k :: left <= k <= right ==> a[k] == old(a[k])
  {
    a[left], a[right] := a[right], a[left];
    left := left + 1;
    right := right - 1;
  }
}
