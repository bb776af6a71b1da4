// A mirrored tree has the same numbers.
datatype Tree = Leaf | Node(left: Tree, value: int, right: Tree)

function Mirror(t: Tree): Tree {
  match t
  case Leaf => Leaf
  case Node(l, v, r) => Node(Mirror(r), v, Mirror(l))
}

function Values(t: Tree): multiset<int> {
  match t
  case Leaf => multiset{}
  case Node(l, v, r) => Values(l) + multiset{v} + Values(r)
}

lemma MirrorKeepsValues(t: Tree)
  ensures Values(Mirror(t)) == Values(t)
{
}
