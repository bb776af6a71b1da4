// Whether all elements are above zero.
method AllPositive(a: array<int>) returns (yes: bool)
  ensures yes <==> forall k :: 0 <= k < a.Length ==> a[k] > 0
{
  yes := true;
  var i := 0;
  while i < a.Length
    invariant 0 <= i <= a.Length
    invariant yes <==> forall k :: 0 <= k < i ==> a[k] > 0
  {
    if a[i] <= 0 {
      yes := false;
    }
    i := i + 1;
  }
}
