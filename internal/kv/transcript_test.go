package kv

import (
	"bufio"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"lockstep/internal/acl"
	"lockstep/internal/kv/alike"
	"lockstep/internal/resp"
	"lockstep/smr"
)

// runner feeds commands to a machine as a log of one request a frame would.
type runner struct {
	machine  *Machine
	lsn      smr.LSN
	sequence uint64
	stamp    int64
	proto    int
}

func newRunner() *runner { return &runner{machine: strict(), stamp: 1_700_000_000_000, proto: 2} }

// apply executes one command and returns the bytes of its reply.
func (r *runner) apply(args ...string) string {
	return r.applyPayload(AppendCommand(nil, bytesOf(args)))
}

func (r *runner) applyPayload(payload []byte) string {
	r.sequence++
	reply := resp.Reply{Proto: r.proto}
	request := smr.Request{Session: 1, Sequence: r.sequence, Slot: smr.NoSlot, Payload: payload}
	if admission := r.machine.Apply(Instant{LSN: r.lsn, Stamp: r.stamp}, request, &reply); admission != smr.Execute {
		panic("not executed")
	}
	r.lsn += smr.LSN(smr.HeaderSize + smr.RequestHeaderSize + len(payload))
	r.machine.Advance(r.stamp, r.lsn)
	return string(reply.Buf)
}

// read executes one command as a read.
func (r *runner) read(args ...string) string {
	reply := resp.Reply{Proto: r.proto}
	r.machine.Read(0, bytesOf(args), &reply)
	return string(reply.Buf)
}

func bytesOf(args []string) [][]byte {
	b := make([][]byte, len(args))
	for i, arg := range args {
		b[i] = []byte(arg)
	}
	return b
}

var transcripts = flag.String("transcripts", "testdata", "directory of the transcripts to replay")

// Every command of the recorded transcripts must be answered with the bytes that redis-server 7.0.15 answered (in any
// order where Redis promises none), whether it is executed from the log or, if it only reads, as a read. A wrong
// text, a wrong format of a number, a wrong effect that a later command shows, all appear here.
func TestRepliesAreThoseOfRedis(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(*transcripts, "*.txt"))
	if err != nil || len(files) < 9 {
		t.Fatalf("transcripts: %v %v", files, err)
	}
	total := 0
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { total += replay(t, file) })
	}
	if total < 10_000 {
		t.Errorf("only %d commands were compared", total)
	}
}

func replay(t *testing.T, file string) (count int) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	var r *runner
	var args []string
	for number := 1; lines.Scan(); number++ {
		line := lines.Text()
		switch line[0] {
		case '@':
			fields := strings.Fields(line)
			r = newRunner()
			r.stamp, _ = strconv.ParseInt(fields[2], 10, 64)
			r.proto, _ = strconv.Atoi(fields[4])
		case '>':
			args = unquoteAll(t, line[1:])
		case '<':
			want, err := strconv.Unquote(line[2:])
			if err != nil {
				t.Fatalf("%s:%d: %v", file, number, err)
			}
			if strings.EqualFold(args[0], "command") {
				reply := resp.Reply{Proto: r.proto}
				CommandReply(bytesOf(args), &reply)
				if got := string(reply.Buf); !alike.Reply(args, r.kindOf(args), got, want) {
					t.Errorf("%s:%d: %q\n got %q\nwant %q", file, number, args, got, want)
				}
				count++
				continue
			}
			before := r.machine.Version(0, []byte("a"))
			if command := Lookup([]byte(args[0])); command != nil && command.Flags&Readonly != 0 {
				if got := r.read(args...); !alike.Reply(args, r.kindOf(args), got, want) {
					t.Errorf("%s:%d: read %q\n got %q\nwant %q", file, number, args, got, want)
				}
			}
			got := r.apply(args...)
			if !alike.Reply(args, r.kindOf(args), got, want) {
				t.Errorf("%s:%d: %q\n got %q\nwant %q", file, number, args, got, want)
			}
			if _, ok := KeyUses(FullName(bytesOf(args)), bytesOf(args), nil); !ok && !strings.HasPrefix(got, "-") {
				t.Errorf("%s:%d: %q was executed, and access control does not see its keys", file, number, args)
			}
			if strings.HasPrefix(want, "-") && r.machine.Version(0, []byte("a")) != before {
				t.Errorf("%s:%d: %q was refused but changed a key", file, number, args)
			}
			count++
		}
	}
	return count
}

// What could go wrong: access control checks another key than the one that is written, because the last of several STORE counts.
func TestAccessControlSeesTheKeyThatIsWritten(t *testing.T) {
	for _, line := range []string{"georadius s 15 37 200 km store a store b", "georadius s 15 37 200 km storedist a store b", "georadiusbymember s m 200 km store b storedist c store b", "sort l store a store b"} {
		r := newRunner()
		r.apply("geoadd", "s", "15", "37", "m")
		r.apply("rpush", "l", "1")
		args := strings.Fields(line)
		if got := r.apply(args...); got != ":1\r\n" || r.read("exists", "b") != ":1\r\n" {
			t.Fatalf("%s: %q, b is not there", line, got)
		}
		uses, ok := KeyUses(args[0], bytesOf(args), nil)
		seen := slices.ContainsFunc(uses, func(u KeyUse) bool { return string(u.Key) == "b" && u.Access&acl.Write != 0 })
		if !ok || !seen {
			t.Errorf("%s: access control does not see that b is written", line)
		}
	}
}

func unquoteAll(t *testing.T, line string) []string {
	var args []string
	for line = strings.TrimLeft(line, " "); line != ""; line = strings.TrimLeft(line, " ") {
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			t.Fatalf("transcript line %q: %v", line, err)
		}
		arg, _ := strconv.Unquote(quoted)
		args = append(args, arg)
		line = line[len(quoted):]
	}
	return args
}

// kindOf returns the type of the key that a comparison of the replies has to know.
func (r *runner) kindOf(args []string) string {
	key, ok := alike.KindKey(args)
	if !ok {
		return ""
	}
	return strings.Trim(r.read("type", key), "+\r\n")
}
