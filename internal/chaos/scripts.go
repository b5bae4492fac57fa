package chaos

import (
	"context"
	"fmt"
	"time"
)

// What both scripts do: count, append to a text, and push onto a list, all or nothing.
const (
	scriptBody = `local n = redis.call('INCR', keys[1])
redis.call('APPEND', keys[2], '.' .. args[1])
redis.call('RPUSH', keys[3], args[1])
return n`
	script  = "local keys, args = KEYS, ARGV\n" + scriptBody
	library = "#!lua name=chaos\nredis.register_function('chaospush', function(keys, args)\n" + scriptBody + "\nend)"
)

// loadLibrary loads the library that FCALL needs. It is loaded once: that it is there later, on all nodes, is part of what is checked.
func (l *load) loadLibrary(ctx context.Context) error {
	reply, err := once(ctx, l.login(), l.nodes()[0].KVAddr, 20*time.Second, "FUNCTION", "LOAD", "REPLACE", library)
	if err != nil {
		return fmt.Errorf("load the library: %w", err)
	}
	if reply.Text != "chaos" {
		return fmt.Errorf("load the library: %q", reply.Text)
	}
	return nil
}

// callScript writes three keys at once.
func (w *worker) callScript(key, value string) Outcome {
	command := []string{"EVAL", script}
	if w.rng.IntN(2) == 0 {
		command = []string{"FCALL", "chaospush"}
	}
	names := namesOf(key)
	return w.write(key, Call, value, append(command, "3", names[0], names[1], names[2], value))
}
