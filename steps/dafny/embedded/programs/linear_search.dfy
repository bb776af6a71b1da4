// The first place of a value, or the length where it is nowhere.
method Search(a: array<int>, key: int) returns (place: nat)
  ensures place <= a.Length
  ensures place < a.Length ==> a[place] == key
  ensures forall k :: 0 <= k < place ==> a[k] != key
{
  place := 0;
  while place < a.Length && a[place] != key
    invariant place <= a.Length
    invariant forall k :: 0 <= k < place ==> a[k] != key
  {
    place := place + 1;
  }
}
