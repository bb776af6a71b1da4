// A value that may be missing, and a default for it.
datatype Option<T> = None | Some(value: T)

function OrElse<T>(o: Option<T>, other: T): T {
  match o
  case None => other
  case Some(x) => x
}

method Choose(o: Option<int>, other: int) returns (x: int)
  ensures o.Some? ==> x == o.value
  ensures o.None? ==> x == other
{
  x := OrElse(o, other);
  assert o.Some? ==> x == o.value;
}
