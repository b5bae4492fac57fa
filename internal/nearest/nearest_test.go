package nearest

import "testing"

// What could go wrong: a wild guess is worse than none; a name that is almost right is not found.
func TestNameFindsWhatWasMeant(t *testing.T) {
	names := []string{"maxmemory", "maxmemory-policy", "maxclients", "timeout", "appendfsync"}
	for name, want := range map[string]string{
		"maxmemry": "maxmemory", "MAXMEMORY": "maxmemory", "timout": "timeout", "maxmemory-polcy": "maxmemory-policy", "append": "appendfsync",
		"requirepass": "", "x": "", "": "", "lua": "",
	} {
		if got := Name(name, names); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
