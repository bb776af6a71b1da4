// Elements below a pivot come first.
method Partition(a: array<int>, pivot: int) returns (border: nat)
  modifies a
  ensures border <= a.Length
  ensures forall k :: 0 <= k < border ==> a[k] < pivot
  ensures forall k :: border <= k < a.Length ==> a[k] >= pivot
{
  border := 0;
  var i := 0;
  while i < a.Length
    invariant 0 <= border <= i <= a.Length
    invariant forall k :: 0 <= k < border ==> a[k] < pivot
    invariant forall k :: border <= k < i ==> a[k] >= pivot
  {
    if a[i] < pivot {
      a[i], a[border] := a[border], a[i];
      border := border + 1;
    }
    i := i + 1;
  }
}
