// One key of a map gets a new value, the others keep theirs.
method Update(m: map<string, int>, key: string, value: int) returns (r: map<string, int>)
  ensures key in r && r[key] == value
  ensures forall k :: k in m && k != key ==> k in r && r[k] == m[k]
{
  r := m[key := value];
  assert r.Keys == m.Keys + {key};
}
