// A matrix is set to zero row by row.
method Clear(m: array2<int>)
  modifies m
  ensures forall i, j :: 0 <= i < m.Length0 && 0 <= j < m.Length1 ==> m[i, j] == 0
{
  var row := 0;
  while row < m.Length0
    invariant 0 <= row <= m.Length0
    invariant forall i, j :: 0 <= i < row && 0 <= j < m.Length1 ==> m[i, j] == 0
  {
    var column := 0;
    while column < m.Length1
      invariant 0 <= column <= m.Length1
      invariant forall i, j :: 0 <= i < row && 0 <= j < m.Length1 ==> m[i, j] == 0
      invariant forall j :: 0 <= j < column ==> m[row, j] == 0
    {
      m[row, column] := 0;
      column := column + 1;
    }
    row := row + 1;
  }
}
