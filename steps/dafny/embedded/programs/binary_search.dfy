// A value in a sorted array, by halving.
method Find(a: array<int>, key: int) returns (place: int)
  requires forall i, j :: 0 <= i < j < a.Length ==> a[i] <= a[j]
  ensures 0 <= place ==> place < a.Length && a[place] == key
  ensures place < 0 ==> forall k :: 0 <= k < a.Length ==> a[k] != key
{
  var low, high := 0, a.Length;
  while low < high
    invariant 0 <= low <= high <= a.Length
    invariant forall k :: 0 <= k < low ==> a[k] != key
    invariant forall k :: high <= k < a.Length ==> a[k] != key
  {
    var middle := (low + high) / 2;
    if a[middle] < key {
      low := middle + 1;
    } else if key < a[middle] {
      high := middle;
    } else {
      return middle;
    }
  }
  return -1;
}
