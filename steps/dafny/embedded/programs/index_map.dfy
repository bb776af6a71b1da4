// Where a value of a sequence stands, as a map from values to places.
method Places(s: seq<int>) returns (places: map<int, nat>)
  ensures forall k :: 0 <= k < |s| ==> s[k] in places
  ensures forall x :: x in places ==> places[x] < |s| && s[places[x]] == x
{
  places := map[];
  var i := 0;
  while i < |s|
    invariant 0 <= i <= |s|
    invariant forall k :: 0 <= k < i ==> s[k] in places
    invariant forall x :: x in places ==> places[x] < i && s[places[x]] == x
  {
    places := places[s[i] := i];
    i := i + 1;
  }
}
