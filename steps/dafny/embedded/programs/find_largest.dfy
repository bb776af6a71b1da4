// The largest element of an array and where it is.
method FindLargest(a: array<int>) returns (place: nat, largest: int)
  requires a.Length > 0
  ensures place < a.Length && a[place] == largest
  ensures forall k :: 0 <= k < a.Length ==> a[k] <= largest
{
  place := 0;
  largest := a[0];
  var i := 1;
  while i < a.Length
    invariant 1 <= i <= a.Length
    invariant place < a.Length && a[place] == largest
    invariant forall k :: 0 <= k < i ==> a[k] <= largest
  {
    if a[i] > largest {
      place := i;
      largest := a[i];
    }
    i := i + 1;
  }
}
