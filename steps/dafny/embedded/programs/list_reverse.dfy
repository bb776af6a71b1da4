// Reversing a list twice gives it back: a lemma that needs another one.
datatype List<T> = Nil | Cons(head: T, tail: List<T>)

function Append<T>(a: List<T>, b: List<T>): List<T> {
  match a
  case Nil => b
  case Cons(x, rest) => Cons(x, Append(rest, b))
}

function Reverse<T>(a: List<T>): List<T> {
  match a
  case Nil => Nil
  case Cons(x, rest) => Append(Reverse(rest), Cons(x, Nil))
}

lemma ReverseOfAppended<T>(a: List<T>, x: T)
  ensures Reverse(Append(a, Cons(x, Nil))) == Cons(x, Reverse(a))
{
}

lemma ReverseTwice<T>(a: List<T>)
  ensures Reverse(Reverse(a)) == a
{
  match a
  case Nil =>
  case Cons(x, rest) => ReverseOfAppended(Reverse(rest), x);
}
