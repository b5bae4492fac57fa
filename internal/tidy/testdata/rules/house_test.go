package rules

import "testing"

func TestNothing(t *testing.T) {
	t.Skip("later") // want "a skipped test"
}
