package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"lockstep/internal/kv"
	"lockstep/internal/kv/alike"
	"lockstep/internal/resp"
	"lockstep/smr"
)

// soakLength is the number of commands of a sequence, each of which begins with an empty keyspace.
const soakLength = 50

// maxDifferences ends a soak: what comes then has probably been seen.
const maxDifferences = 25

// machine is a kv.Machine that is fed as a log of one request a frame would feed it.
type machine struct {
	*kv.Machine
	lsn      smr.LSN
	sequence uint64
	proto    int
}

func (m *machine) do(args []string) string {
	m.sequence++
	reply := resp.Reply{Proto: m.proto}
	if args[0] == "command" { // which the shell answers
		kv.CommandReply(bytesOf(args), &reply)
		return string(reply.Buf)
	}
	stamp := time.Now().UnixMilli()
	payload := kv.AppendCommand(nil, bytesOf(args))
	m.Apply(kv.Instant{LSN: m.lsn, Stamp: stamp}, smr.Request{Session: 1, Sequence: m.sequence, Slot: smr.NoSlot, Payload: payload}, &reply)
	m.lsn += smr.LSN(smr.HeaderSize + smr.RequestHeaderSize + len(payload))
	m.Advance(stamp, m.lsn)
	return string(reply.Buf)
}

// kindOf returns the type of the key that a comparison of the replies has to know.
func (m *machine) kindOf(args []string) string {
	key, ok := alike.KindKey(args)
	if !ok {
		return ""
	}
	reply := resp.Reply{}
	m.Read(0, bytesOf([]string{"type", key}), &reply)
	return strings.Trim(string(reply.Buf), "+\r\n")
}

func bytesOf(args []string) [][]byte {
	b := make([][]byte, len(args))
	for i, arg := range args {
		b[i] = []byte(arg)
	}
	return b
}

// difference is where a sequence of commands was answered differently.
type difference struct {
	at        int // which command
	got, want string
}

// compare executes a sequence on a fresh machine and on the emptied server, and returns the first difference.
func compare(s *server, proto int, commands [][]string) (*difference, error) {
	if _, err := s.do("hello", strconv.Itoa(proto)); err != nil {
		return nil, err
	}
	if _, err := s.do("flushall"); err != nil {
		return nil, err
	}
	m := &machine{Machine: kv.New(), proto: proto}
	replies, err := s.doAllAnew(commands)
	if err != nil {
		return nil, err
	}
	for i, args := range commands {
		inner := withoutScript(args)
		kind := m.kindOf(inner)
		got := m.do(args)
		want := string(replies[i])
		if alike.Apart(inner, got, want) {
			return nil, nil
		}
		if !alike.Reply(inner, kind, got, want) {
			return &difference{i, got, want}, nil
		}
	}
	return nil, nil
}

// shrink takes commands out of a sequence as long as its last command is still answered differently.
func shrink(s *server, proto int, commands [][]string) ([][]string, *difference, error) {
	found, err := compare(s, proto, commands)
	if err != nil || found == nil {
		return commands, found, err
	}
	commands = commands[:found.at+1]
	for step := max(1, len(commands)/2); step > 0; step /= 2 {
		for i := 0; i+step < len(commands); {
			fewer := slices.Delete(slices.Clone(commands), i, i+step)
			d, err := compare(s, proto, fewer)
			if err != nil {
				return commands, found, err
			}
			if d != nil && d.at == len(fewer)-1 {
				commands, found = fewer, d
			} else {
				i += step
			}
		}
	}
	return commands, found, nil
}

// soak compares count commands of a grammar with the server and prints each kind of difference once, shrunk. It returns
// how many kinds there were.
func soak(s *server, name string, count int, seed uint64) (differences int, err error) {
	g := generator{rand.New(rand.NewPCG(seed, uint64(len(name))))}
	seen := make(map[string]bool)
	rules := soakRules(name)
	var asDocumented *documented
	if name == "documented" || name == "getkeys" {
		if asDocumented, err = newDocumented(s, g, name == "getkeys"); err != nil {
			return 0, err
		}
	}
	for done, round := 0, 0; done < count && differences < maxDifferences; round++ {
		proto := 2 + round%2
		commands := slices.Clone(fixture[1:])
		if name == "scripts" { // of another type in each sequence
			name := scripted[round%len(scripted)]
			rules = soakRules(name)
		}
		switch name {
		case "streams":
			commands = (&streams{generator: g}).sequence(soakLength)
		case "documented", "getkeys":
			commands = asDocumented.sequence(soakLength)
		default:
			for len(commands) < len(fixture)-1+soakLength {
				if args := g.command(rules); !brief(args) {
					if name == "scripts" {
						args = append([]string{"eval", g.pick(scriptsAround), "0"}, args...)
					}
					commands = append(commands, args)
				}
			}
		}
		done += len(commands)
		d, err := compare(s, proto, commands)
		if err != nil {
			return differences, err
		}
		if d == nil {
			continue
		}
		about := commands[d.at][:1]
		if name == "getkeys" {
			about = commands[d.at][:3]
		}
		kind := strings.ToLower(strings.Join(about, " ")) + shape(d.got) + shape(d.want)
		if seen[kind] {
			continue
		}
		seen[kind] = true
		differences++
		smallest, d2, err := shrink(s, proto, commands)
		if err != nil {
			return differences, err
		}
		if d2 == nil {
			smallest, d2 = commands[:d.at+1], d
			fmt.Printf("%s: seen once only (RESP%d):\n", name, proto)
		} else {
			fmt.Printf("%s: difference (RESP%d):\n", name, proto)
		}
		for _, args := range smallest {
			fmt.Printf("  > %q\n", args)
		}
		fmt.Printf("   got %.300q\n  want %.300q\n", d2.got, d2.want)
	}
	return differences, nil
}

// scriptsAround are the scripts that a soak of scripts wraps a command into, scripted the types that the commands are of.
var (
	scriptsAround = []string{"return redis.pcall(unpack(ARGV))", "return redis.call(unpack(ARGV))", "local r = redis.pcall(unpack(ARGV)) return r"}
	scripted      = slices.Sorted(maps.Keys(grammar))
)

// withoutScript returns the command that a script of scriptsAround executes, or the command itself.
func withoutScript(args []string) []string {
	if len(args) > 3 && args[0] == "eval" && slices.Contains(scriptsAround, args[1]) {
		return args[3:]
	}
	return args
}

// soakRules returns the rules of a type whose commands can be compared by the thousand: not those with strings of half a gigabyte.
func soakRules(name string) []string {
	return slices.DeleteFunc(slices.Clone(grammar[name]), func(rule string) bool { return strings.Contains(rule, "53687091") })
}

// briefest is the shortest time to live that is compared, in the unit of the command: what is over sooner is over for one side first.
const briefest = 10_000

// doAllAnew is doAll that has redis-server read a number before each SORT: it would otherwise refuse whatever it sorts because of the errno
// that an earlier command left.
func (s *server) doAllAnew(commands [][]string) ([][]byte, error) {
	var all [][]string
	var kept []int
	for _, args := range commands {
		if strings.HasPrefix(strings.ToLower(withoutScript(args)[0]), "sort") {
			all = append(all, []string{"zunion", "1", "a-key-that-is-never-there", "weights", "1"})
		}
		kept = append(kept, len(all))
		all = append(all, args)
	}
	answers, err := s.doAll(all)
	if err != nil {
		return nil, err
	}
	replies := make([][]byte, len(kept))
	for i, at := range kept {
		replies[i] = answers[at]
	}
	return replies, nil
}

// brief reports whether a command may be answered otherwise a moment later: it makes a key expire while the sequence is under way, or
// compares times to live.
func brief(args []string) bool {
	if word := strings.ToLower(args[0]); word == "expire" || word == "pexpire" {
		if slices.ContainsFunc(args, func(arg string) bool { return strings.EqualFold(arg, "gt") || strings.EqualFold(arg, "lt") }) {
			return true
		}
	}
	for i, arg := range args {
		word := strings.ToLower(arg)
		if i == 0 && !slices.Contains([]string{"setex", "psetex", "expire", "pexpire", "restore"}, word) || i > 0 && word != "ex" && word != "px" {
			continue
		}
		at := i + 1
		if i == 0 {
			at = 2
		}
		if at < len(args) {
			if n, err := strconv.Atoi(args[at]); err == nil && n > 0 && n < briefest {
				return true
			}
		}
	}
	return false
}

// shape is what the kind of a difference is told by: the error, or the type of the reply.
func shape(reply string) string {
	if strings.HasPrefix(reply, "-") {
		return reply
	}
	return reply[:min(1, len(reply))]
}
