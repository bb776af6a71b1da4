// The length of a linked list, by walking along it.
datatype List = Nil | Cons(head: int, tail: List)

function Length(list: List): nat {
  match list
  case Nil => 0
  case Cons(_, tail) => 1 + Length(tail)
}

method Count(list: List) returns (count: nat)
  ensures count == Length(list)
{
  count := 0;
  var rest := list;
  while rest.Cons?
    invariant count + Length(rest) == Length(list)
    decreases rest
  {
    rest := rest.tail;
    count := count + 1;
  }
}
