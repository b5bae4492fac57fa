package rdb

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lockstep/internal/resp"
)

// redisServer starts a redis-server with a file to load, and returns a function that asks it. The test is skipped where
// there is none installed.
func redisServer(t *testing.T, file []byte) func(args ...string) resp.Value {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed: the golden file stands for it")
	}
	dir := t.TempDir()
	if file != nil {
		if err := os.WriteFile(filepath.Join(dir, "dump.rdb"), file, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "s")
	var output bytes.Buffer
	server := exec.Command(binary, "--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "", "--daemonize", "no", "--sanitize-dump-payload", "yes")
	server.Stdout, server.Stderr = &output, &output
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = server.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = server.Process.Kill()
		<-ended
	})
	var conn net.Conn
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if conn, err = net.Dial("unix", socket); err == nil {
			break
		}
		select {
		case <-ended:
			t.Fatalf("redis-server ended:\n%s", output.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { conn.Close() })
	in := bufio.NewReader(conn)
	return func(args ...string) resp.Value {
		t.Helper()
		var words [][]byte
		for _, arg := range args {
			words = append(words, []byte(arg))
		}
		for {
			if _, err := conn.Write(AppendCommand(nil, words...)); err != nil {
				t.Fatalf("%v\n%s", err, output.String())
			}
			value := readReply(t, in)
			if value.Kind == '-' && strings.HasPrefix(value.Text, "LOADING") {
				time.Sleep(5 * time.Millisecond)
				continue
			}
			if value.Kind == '-' {
				t.Fatalf("%v: %s", args, value.Text)
			}
			return value
		}
	}
}

func readReply(t *testing.T, in *bufio.Reader) resp.Value {
	t.Helper()
	var buffer []byte
	for {
		value, used, err := resp.Decode(buffer)
		if err != nil {
			t.Fatal(err)
		}
		if used > 0 {
			return value
		}
		b, err := in.ReadByte()
		if err != nil {
			t.Fatal(err)
		}
		buffer = append(buffer, b)
		for in.Buffered() > 0 {
			b, _ = in.ReadByte()
			buffer = append(buffer, b)
		}
	}
}

// What could go wrong: Redis does not load what is exported, or finds other values in it. It is asked for everything, and what it
// saves itself is read back.
func TestRedisLoadsTheFile(t *testing.T) {
	t.Parallel()
	m := full(t)
	m.run(0, "persist", "text") // in 2023 it has expired
	ask := redisServer(t, export(t, m.Machine))
	keys := 0
	for _, database := range []int{0, 3, 15} {
		ask("SELECT", strconv.Itoa(database))
		keys += int(ask("DBSIZE").Int)
		a := &asker{m: m.Machine, database: database}
		if got, want := ask("DBSIZE").Int, int64(m.DBSize(database)); got != want {
			t.Errorf("database %d: %d keys, want %d", database, got, want)
		}
		err := a.eachKey(func(key string) error {
			kind, err := a.ask("TYPE", key)
			if err != nil {
				return err
			}
			questions := map[string][][]string{
				"string": {{"GET", key}}, "list": {{"LRANGE", key, "0", "-1"}}, "set": {{"SCARD", key}, {"SORT_RO", key, "ALPHA"}},
				"hash": {{"HLEN", key}}, "zset": {{"ZRANGE", key, "0", "-1", "WITHSCORES"}},
				"stream": {{"XRANGE", key, "-", "+"}, {"XPENDING", key, "group"}, {"XPENDING", key, "group", "-", "+", "10"}},
			}[kind.Text]
			if kind.Text == "hash" {
				questions = [][]string{{"HLEN", key}}
				fields, err := a.ask("HKEYS", key)
				if err != nil {
					return err
				}
				for _, field := range fields.Items {
					questions = append(questions, []string{"HGET", key, field.Text})
				}
			}
			for _, question := range append(questions, []string{"PEXPIRETIME", key}) {
				want, err := a.ask(question...)
				if err != nil {
					return err
				}
				got := ask(question...)
				if len(question) > 4 && question[0] == "XPENDING" { // the idle time goes on
					for _, list := range [][]resp.Value{got.Items, want.Items} {
						for i := range list {
							list[i].Items[2].Int = 0
						}
					}
				}
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%v: Redis has %v, want %v", question, got, want)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := ask("FCALL", "answer", "0"); got.Int != 42 {
		t.Errorf("function: %v", got)
	}
	ask("SAVE")
	dir := ask("CONFIG", "GET", "dir").Items[1].Text
	saved, err := os.ReadFile(filepath.Join(dir, "dump.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	items, err := read(saved, 64<<20)
	if err != nil || len(items) != keys+1 {
		t.Fatalf("%d items of %d, %v", len(items), keys+1, err)
	}
	if got, want := sorted(t, load(t, items).Machine), sorted(t, m.Machine); got != want {
		t.Errorf("what Redis saved is another state: %s", firstDifference(got, want))
	}
}

// What could go wrong: an encoding that Redis writes and we do not (LZF, lists of packed nodes, sets of listpacks) is read
// wrongly.
func TestFileOfRedisIsRead(t *testing.T) {
	t.Parallel()
	ask := redisServer(t, nil)
	ask("SET", "compressed", strings.Repeat("abcdefgh", 1000))
	ask("SET", "integer", "123456")
	for i := range 1000 {
		n := strconv.Itoa(i)
		ask("RPUSH", "list", strings.Repeat("v"+n, 10))
		ask("ZADD", "zset", n+".5", "m"+n)
		ask("SADD", "set", "m"+n)
		ask("SADD", "integers", n)
		ask("HSET", "hash", "f"+n, n)
		ask("XADD", "stream", n+"-1", "field", n)
	}
	ask("RPUSH", "plain", strings.Repeat("x", 20_000))
	ask("XGROUP", "CREATE", "stream", "g", "0")
	ask("XREADGROUP", "GROUP", "g", "c", "COUNT", "300", "STREAMS", "stream", ">")
	ask("PEXPIREAT", "hash", "4000000000000")
	ask("SAVE")
	dir := ask("CONFIG", "GET", "dir").Items[1].Text
	saved, err := os.ReadFile(filepath.Join(dir, "dump.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	items, err := read(saved, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	m := load(t, items)
	a := &asker{m: m.Machine}
	for _, question := range []string{
		"GET compressed", "GET integer", "LRANGE list 0 -1", "ZRANGE zset 0 -1 WITHSCORES", "SORT_RO set ALPHA", "SORT_RO integers", "HGET hash f999", "HLEN hash",
		"XRANGE stream - +", "XPENDING stream g", "XINFO GROUPS stream", "LRANGE plain 0 -1", "PEXPIRETIME hash",
	} {
		got, err := a.ask(strings.Fields(question)...)
		if want := ask(strings.Fields(question)...); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %.300v instead of %.300v, %v", question, got, want, err)
		}
	}
}

// firstDifference returns the first lines that differ.
func firstDifference(a, b string) string {
	one, other := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(one), len(other)) {
		if one[i] != other[i] {
			return fmt.Sprintf("\n%.1000s\n%.1000s", one[i], other[i])
		}
	}
	return fmt.Sprintf("%d lines and %d", len(one), len(other))
}
