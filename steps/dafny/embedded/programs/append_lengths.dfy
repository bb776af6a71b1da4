// Appending adds lengths: Dafny finds this induction by itself.
datatype List = Nil | Cons(head: int, tail: List)

function Length(l: List): nat
  decreases l
{
  if l.Nil? then 0 else 1 + Length(l.tail)
}

function Append(a: List, b: List): List {
  if a.Nil? then b else Cons(a.head, Append(a.tail, b))
}

lemma Lengths(a: List, b: List)
  ensures Length(Append(a, b)) == Length(a) + Length(b)
{
}
