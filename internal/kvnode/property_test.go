package kvnode

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// commandsForProperty returns random commands of all kinds: reads, writes, transactions, commands of the shell, errors.
func commandsForProperty(random *rand.Rand, count int) [][][]byte {
	key := func() string { return fmt.Sprintf("k%d", random.IntN(4)) }
	var commands [][][]byte
	add := func(args ...string) {
		command := make([][]byte, len(args))
		for i, arg := range args {
			command[i] = []byte(arg)
		}
		commands = append(commands, command)
	}
	one := func() {
		switch random.IntN(22) {
		case 0, 1, 2:
			add("SET", key(), fmt.Sprint(random.IntN(100)))
		case 3, 4, 5:
			add("GET", key())
		case 6, 7:
			add("INCR", key())
		case 8:
			add("DEL", key(), key())
		case 9:
			add("MGET", key(), key(), key())
		case 10:
			add("RPUSH", "l"+key(), "x", "y")
		case 11:
			add("LRANGE", "l"+key(), "0", "-1")
		case 12:
			add("PING")
		case 13:
			add("CLIENT", "GETNAME")
		case 14:
			add("CLIENT", "SETNAME", key())
		case 15:
			add("nonsense", key())
		case 16:
			add("GET")
		case 17:
			add("INCR", "l"+key())
		case 18:
			add("DBSIZE")
		case 19:
			add("ECHO", key())
		case 20:
			add("WATCH", key())
		case 21:
			add("CONFIG", "GET", "databases")
		}
	}
	for len(commands) < count {
		one()
		if random.IntN(12) == 0 {
			add("MULTI")
			for range random.IntN(5) {
				one()
			}
			add([...]string{"EXEC", "EXEC", "EXEC", "DISCARD"}[random.IntN(4)])
		}
	}
	return commands
}

// What comes back from a stream of commands must not depend on how it is cut into pieces and batches: the twin is
// the same stream, one command at a time.
func TestPipelinesAnswerLikeSingleCommands(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 5))
		commands := commandsForProperty(random, 300)
		twin := dial(t, newFakeGroup(t, 1, nil).serve(t, 0))
		var want [][]byte
		var stream []byte
		for _, args := range commands {
			b := appendCommand(nil, args)
			stream = append(stream, b...)
			if _, err := twin.Write(b); err != nil {
				t.Fatal(err)
			}
			want = append(want, twin.next())
		}
		c := dial(t, newFakeGroup(t, 1, nil).serve(t, 0))
		largest := 1 << random.IntN(14)
		go func() {
			for rest := stream; len(rest) > 0; {
				n := min(len(rest), 1+random.IntN(largest))
				if _, err := c.Write(rest[:n]); err != nil {
					return
				}
				rest = rest[n:]
			}
		}()
		for i, w := range want {
			if got := c.next(); !bytes.Equal(got, w) {
				t.Fatalf("seed %d: command %d %q: %q in a pipeline, %q alone", seed, i, commands[i], got, w)
			}
		}
	}
}

// Among refused and uncertain writes, every reply must stay in its place, and what was refused must never be executed.
func TestOutcomesUnderTrouble(t *testing.T) {
	for seed := range uint64(5) {
		random := rand.New(rand.NewPCG(seed, 6))
		g := newFakeGroup(t, 1, nil)
		l := g.nodes[0]
		c := dial(t, g.serve(t, 0))
		certain, possible := 0, 0 // increments that were acknowledged, and that may have been executed
		for range 60 {
			trouble := random.IntN(4)
			if trouble == 1 || trouble == 3 {
				g.set(func() { g.held = true })
			}
			l.mu.Lock()
			l.refusing = trouble == 2
			l.mu.Unlock()
			const pairs = 5
			for range pairs {
				c.send("INCR n", "ECHO here")
			}
			if trouble == 1 || trouble == 3 {
				eventually(t, "a write waits", func() bool { return l.pending() > 0 })
				if trouble == 1 {
					l.giveUp()
				}
				g.set(func() { g.held = false })
			}
			for range pairs {
				reply := c.next()
				switch {
				case bytes.HasPrefix(reply, []byte(":")):
					certain, possible = certain+1, possible+1
				case bytes.HasPrefix(reply, []byte("-UNCERTAIN ")):
					possible++
				case !bytes.HasPrefix(reply, []byte("-NOREPLICAS ")):
					t.Fatalf("seed %d: reply %q to INCR", seed, reply)
				}
				c.want("$4\r\nhere\r\n")
			}
		}
		n := 0
		fmt.Sscanf(c.do("GET n"), "$%d\r\n%d", new(int), &n)
		if n < certain || n > possible {
			t.Errorf("seed %d: n is %d, %d were acknowledged and at most %d executed", seed, n, certain, possible)
		}
	}
}
