// Selection sort: the smallest of what is left comes next.
method SelectionSort(a: array<int>)
  modifies a
  ensures forall i, j :: 0 <= i < j < a.Length ==> a[i] <= a[j]
  ensures multiset(a[..]) == multiset(old(a[..]))
{
  var n := 0;
  while n < a.Length
    invariant 0 <= n <= a.Length
    invariant forall i, j :: 0 <= i < j < n ==> a[i] <= a[j]
    invariant forall i, j :: 0 <= i < n <= j < a.Length ==> a[i] <= a[j]
    invariant multiset(a[..]) == multiset(old(a[..]))
  {
    var least, k := n, n + 1;
    while k < a.Length
      invariant n <= least < k <= a.Length
      invariant forall i :: n <= i < k ==> a[least] <= a[i]
    {
      if a[k] < a[least] {
        least := k;
      }
      k := k + 1;
    }
    a[n], a[least] := a[least], a[n];
    n := n + 1;
  }
}
