// The numbers below n as a sequence.
method Numbers(n: nat) returns (s: seq<nat>)
  ensures |s| == n
  ensures forall k :: 0 <= k < n ==> s[k] == k
{
  s := [];
  while |s| < n
    invariant |s| <= n
    invariant forall k :: 0 <= k < |s| ==> s[k] == k
  {
    s := s + [|s|];
  }
}
