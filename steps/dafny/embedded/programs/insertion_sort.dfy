// Insertion sort: each element sinks to its place among those before it.
predicate Sorted(a: array<int>, end: int)
  requires 0 <= end <= a.Length
  reads a
{
  forall i, j :: 0 <= i < j < end ==> a[i] <= a[j]
}

method InsertionSort(a: array<int>)
  modifies a
  ensures Sorted(a, a.Length)
  ensures multiset(a[..]) == multiset(old(a[..]))
{
  var n := 0;
  while n < a.Length
    invariant 0 <= n <= a.Length
    invariant Sorted(a, n)
    invariant multiset(a[..]) == multiset(old(a[..]))
  {
    var k := n;
    while k > 0 && a[k - 1] > a[k]
      invariant 0 <= k <= n < a.Length
      invariant forall i, j :: 0 <= i < j <= n && j != k ==> a[i] <= a[j]
      invariant multiset(a[..]) == multiset(old(a[..]))
    {
      a[k - 1], a[k] := a[k], a[k - 1];
      k := k - 1;
    }
    n := n + 1;
  }
}
