// Whether an array is sorted, neighbour by neighbour.
method IsSorted(a: array<int>) returns (sorted: bool)
  ensures sorted ==> forall i, j :: 0 <= i < j < a.Length ==> a[i] <= a[j]
{
  var k := 1;
  while k < a.Length
    invariant forall i, j :: 0 <= i < j < k && j < a.Length ==> a[i] <= a[j]
  {
    if a[k - 1] > a[k] {
      return false;
    }
    k := k + 1;
  }
  return true;
}
