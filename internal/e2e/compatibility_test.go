package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"lockstep/internal/local"
	"lockstep/internal/resp"
)

var (
	listed  = regexp.MustCompile("(?s)<!-- commands -->(.*)<!-- end of commands -->")
	differs = regexp.MustCompile("(?s)<!-- different -->(.*)<!-- end of different -->")
	missing = regexp.MustCompile("(?s)<!-- absent -->(.*)<!-- end of absent -->")
	command = regexp.MustCompile("`([A-Z_-]+(?: [A-Z-]+)?)`")
)

// names returns the sorted names of commands between the marks of a list in the manual.
func names(t *testing.T, page []byte, marks *regexp.Regexp) []string {
	t.Helper()
	part := marks.FindSubmatch(page)
	if part == nil {
		t.Fatalf("docs/compatibility.md has nothing between the marks %v", marks)
	}
	var list []string
	for _, match := range command.FindAllSubmatch(part[1], -1) {
		list = append(list, string(match[1]))
	}
	slices.Sort(list)
	return list
}

// What could go wrong: the manual promises a command that the server does not know, or hides one that it does. The lists in
// docs/compatibility.md are held against COMMAND LIST of a running node, and against what the node answers to each.
func TestCompatibilityPageListsTheCommands(t *testing.T) {
	w := start(t, local.Options{Replicas: 1, Confmasters: 1}, nil)
	page, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	var known, unknown []string
	for _, item := range mustDial(t, w.addr("n1")).must(t, "COMMAND", "LIST").Items {
		if strings.Contains(item.Text, "|") {
			continue // a subcommand
		}
		// Far too many arguments: whatever it is, it is not executed.
		_, err := once(w.addr("n1"), append([]string{item.Text}, make([]string, 40)...)...)
		if err != nil && strings.Contains(err.Error(), "unknown command") {
			unknown = append(unknown, strings.ToUpper(item.Text))
		} else {
			known = append(known, strings.ToUpper(item.Text))
		}
	}
	slices.Sort(known)
	if documented := names(t, page, listed); !slices.Equal(documented, known) {
		t.Errorf("only in the manual: %v; only in the server: %v", without(documented, known), without(known, documented))
	}
	if len(unknown) > 0 {
		t.Errorf("COMMAND describes what the server does not know: %v", unknown)
	}
}

// redisCommands returns what redis-server has, in capitals: "GET", "CONFIG SET". The recording is of 7.0; the others came with 7.2.
func redisCommands(t *testing.T) []string {
	t.Helper()
	recorded, err := os.ReadFile("../kv/commands.resp")
	if err != nil {
		t.Fatal(err)
	}
	info, _, err := resp.Decode(recorded)
	if err != nil || len(info.Items) < 200 {
		t.Fatalf("the recording holds %d commands, %v", len(info.Items), err)
	}
	list := []string{"WAITAOF", "CLIENT NO-TOUCH", "CLIENT SETINFO", "CLUSTER MYSHARDID"}
	for _, item := range info.Items {
		list = append(list, strings.ToUpper(item.Items[0].Text))
		for _, sub := range item.Items[9].Items {
			list = append(list, strings.ToUpper(strings.Replace(sub.Items[0].Text, "|", " ", 1)))
		}
	}
	return list
}

// What could go wrong: a command of Redis is neither there nor said to be absent, or one that is said to be absent is there, or
// answers otherwise than Redis answers unknown commands.
func TestEveryCommandOfRedisIsDoneOrAbsent(t *testing.T) {
	w := start(t, local.Options{Replicas: 1, Confmasters: 1}, nil)
	page, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	absent := names(t, page, missing)
	var described []string
	for _, item := range mustDial(t, w.addr("n1")).must(t, "COMMAND", "LIST").Items {
		described = append(described, strings.ToUpper(strings.Replace(item.Text, "|", " ", 1)))
	}
	wanted := redisCommands(t)
	if strange := without(absent, wanted); len(strange) > 0 {
		t.Errorf("the manual lists as absent what Redis does not have: %v", strange)
	}
	for _, name := range wanted {
		words := strings.Fields(name)
		// Far too many arguments, as above.
		_, err := once(w.addr("n1"), append(slices.Clone(words), make([]string, 40)...)...)
		answer := ""
		if err != nil {
			answer = err.Error()
		}
		unknown := strings.Contains(answer, "unknown command") || len(words) > 1 && strings.Contains(answer, "unknown subcommand '")
		switch there := slices.Contains(described, name); {
		case words[0] == "CLUSTER" && len(words) > 1: // all of them say so
			if !strings.Contains(answer, "This instance has cluster support disabled") {
				t.Errorf("%s answers %q", name, answer)
			}
		case slices.Contains(absent, name) && (there || !unknown):
			t.Errorf("%s is said to be absent and answers %q", name, answer)
		case !slices.Contains(absent, name) && (!there || unknown):
			t.Errorf("%s is not said to be absent and answers %q", name, answer)
		}
	}
}

// different holds, for the rows of the table of docs/compatibility.md that tell how commands differ, a call of each command and what the node
// answers to it: it shows the difference where one exchange can, and else that the command is there.
var different = map[string]struct{ call, want string }{
	"ACL LOG": {"ACL LOG", `^\[\]$`}, "CLIENT LIST": {"CLIENT LIST", `^id=\d+ .* lib-name= lib-ver=\n$`}, "MONITOR": {"MONITOR", "^OK$"}, "SLOWLOG GET": {"SLOWLOG GET 0", `^\[\]$`},
	"LATENCY LATEST": {"LATENCY LATEST", `^\[\]$`}, "PUBSUB CHANNELS": {"PUBSUB CHANNELS", `^\[\]$`},
	"ASKING": {"ASKING", "cluster support disabled"}, "CLUSTER": {"CLUSTER NONSENSE", "cluster support disabled"},
	"BGREWRITEAOF": {"BGREWRITEAOF", "^Background append only file rewriting started$"}, "BGSAVE": {"BGSAVE", "^Background saving started$"}, "SAVE": {"SAVE", "^OK$|already in progress$"}, "LASTSAVE": {"LASTSAVE", `^\d{10}$`},
	"BLPOP": {"BLPOP none 0.01", "^null$"}, "BRPOP": {"BRPOP none 0.01", "^null$"}, "BLMPOP": {"BLMPOP 0.01 1 none LEFT", "^null$"}, "BZPOPMIN": {"BZPOPMIN none 0.01", "^null$"},
	"BZPOPMAX": {"BZPOPMAX none 0.01", "^null$"}, "BZMPOP": {"BZMPOP 0.01 1 none MIN", "^null$"},
	"CONFIG REWRITE": {"CONFIG REWRITE", "^OK$"}, "CONFIG SET": {"CONFIG SET appendfsync no", "Lockstep has the value 'always' only"}, "DEBUG": {"DEBUG JMAP", "^ERR unknown subcommand"},
	"DUMP": {"EVAL redis.call('set','d','v')return{string.byte(redis.call('dump','d'),4,5)} 0", `^\[10 0\]$`},
	"EVAL": {"EVAL while|true|do|end 0", "used more than 10000 instructions"}, "EVAL_RO": {"EVAL_RO while|true|do|end 0", "used more than 10000 instructions"},
	"EVALSHA": {"EVALSHA 0 0", "^NOSCRIPT"}, "EVALSHA_RO": {"EVALSHA_RO 0 0", "^NOSCRIPT"}, "FCALL": {"FCALL none 0", "^ERR Function not found$"}, "FCALL_RO": {"FCALL_RO none 0", "^ERR Function not found$"},
	"FAILOVER": {"FAILOVER ABORT", "^ERR No failover in progress.$"}, "FUNCTION KILL": {"FUNCTION KILL", "^NOTBUSY"}, "SCRIPT KILL": {"SCRIPT KILL", "^NOTBUSY"},
	"GEORADIUS": {"COMMAND GETKEYS GEORADIUS g 1 2 3 m STORE a STORE b", `^\[g b\]$`}, "GEORADIUSBYMEMBER": {"COMMAND GETKEYS GEORADIUSBYMEMBER g m 3 m STORE a STORE b", `^\[g b\]$`},
	"LATENCY DOCTOR": {"LATENCY DOCTOR", "^The latency monitor is off."}, "MEMORY DOCTOR": {"MEMORY DOCTOR", "^No memory problem found"}, "MEMORY MALLOC-STATS": {"MEMORY MALLOC-STATS", "^Go allocator"},
	"CLIENT HELP": {"CLIENT HELP", "NO-TOUCH"}, "LPOS": {"LPOS none x RANK -9223372036854775808", "^ERR value is out of range"},
	"MODULE LOAD": {"MODULE LOAD /x.so", "^ERR Error loading the extension"}, "MODULE LOADEX": {"MODULE LOADEX /x.so", "^ERR Error loading the extension"}, "MODULE UNLOAD": {"MODULE UNLOAD x", "^ERR Error unloading module"},
	"OBJECT FREQ": {"OBJECT FREQ none", "^null$"}, "OBJECT IDLETIME": {"OBJECT IDLETIME none", "^null$"},
	"PFCOUNT": {"EVAL redis.call('pfadd','h','a')redis.call('pfcount','h')return|string.byte(redis.call('get','h'),16) 0", "^128$"},
	"PUBLISH": {"EVAL return|redis.call('publish','a','b') 0", "^0$"}, "SPUBLISH": {"SPUBLISH a b", "^0$"}, "READONLY": {"READONLY", "^OK$"}, "READWRITE": {"READWRITE", "^OK$"},
	"REPLICAOF": {"REPLICAOF 127.0.0.1 6379", "^ERR replicas of a group are not made with REPLICAOF"}, "SLAVEOF": {"SLAVEOF NO ONE", "^OK$"}, "ROLE": {"ROLE", `^\[master \d+ \[\]\]$`},
	"SCRIPT DEBUG": {"SCRIPT DEBUG YES", "a script runs on every replica"}, "SHUTDOWN": {"SHUTDOWN ABORT", "^ERR No shutdown in progress.$"},
	"SORT": {"SORT none ALPHA", `^\[\]$`}, "SORT_RO": {"SORT_RO none ALPHA", `^\[\]$`}, "WAIT": {"WAIT 0 0", "^0$"}, "WAITAOF": {"WAITAOF 0 0 0", `^\[1 0\]$`},
	"XSETID": {"EVAL redis.call('xadd','x','5-1','f','v')redis.call('xdel','x','5-1')return|redis.pcall('xsetid','x','4-1') 0", "smaller than current max_deleted_entry_id"},
}

// What could go wrong: the manual says that a command differs where it does not any more, or a difference is not in the manual. The table of the
// manual and that of the test have the same commands, and the node answers each as the test says. ("|" stands for a blank inside of a word.)
func TestCommandsDifferAsTheManualSays(t *testing.T) {
	w := start(t, local.Options{Replicas: 1, Confmasters: 1}, nil)
	page, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	part := differs.FindSubmatch(page)
	if part == nil {
		t.Fatal("docs/compatibility.md has no table of differences")
	}
	var documented []string
	for row := range strings.Lines(string(part[1])) {
		if cells := strings.Split(row, "|"); len(cells) > 2 {
			for _, match := range command.FindAllStringSubmatch(cells[1], -1) {
				documented = append(documented, match[1])
			}
		}
	}
	tested := slices.Sorted(maps.Keys(different))
	if slices.Sort(documented); !slices.Equal(documented, tested) {
		t.Fatalf("only in the manual: %v; only in the test: %v", without(documented, tested), without(tested, documented))
	}
	if strange := without(documented, redisCommands(t)); len(strange) > 0 {
		t.Errorf("Redis does not have %v", strange)
	}
	if _, err := once(w.addr("n1"), "CONFIG", "SET", "lua-instruction-limit", "10000"); err != nil {
		t.Fatal(err)
	}
	for _, name := range tested {
		args := strings.Fields(different[name].call)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "|", " ")
		}
		reply, err := once(w.addr("n1"), args...)
		got := shown(reply)
		if err != nil {
			got = err.Error()
		}
		if !regexp.MustCompile(different[name].want).MatchString(got) {
			t.Errorf("%s: %q answers %q, want %s", name, args, got, different[name].want)
		}
	}
}

// shown renders a reply as one line: numbers, texts, and arrays in brackets.
func shown(v resp.Value) string {
	switch {
	case v.Null:
		return "null"
	case v.Kind == ':':
		return fmt.Sprint(v.Int)
	case v.Kind != '*':
		return v.Text
	}
	items := make([]string, len(v.Items))
	for i, item := range v.Items {
		items[i] = shown(item)
	}
	return "[" + strings.Join(items, " ") + "]"
}

// What could go wrong: something that 7.2 brought and the recorded redis-server of 7.0 does not know is missing, or answers otherwise than 7.2 does.
func TestWhatCameWith72(t *testing.T) {
	w := start(t, local.Options{Replicas: 1, Confmasters: 1}, nil)
	c := mustDial(t, w.addr("n1"))
	for _, test := range []struct{ call, want string }{
		{"ZADD z 1 a 2.5 b", "^2$"}, {"ZRANK z b WITHSCORE", `^\[1 2.5\]$`}, {"ZREVRANK z b WITHSCORE", `^\[0 2.5\]$`}, {"ZRANK z x WITHSCORE", "^null$"}, {"ZRANK z b WITHSCORES", "^ERR syntax error$"},
		{"CLIENT NO-TOUCH ON", "^OK$"}, {"CLIENT NO-TOUCH OFF", "^OK$"}, {"CLIENT NO-TOUCH", "^ERR wrong number of arguments for 'client.no-touch' command$"},
		{"CLIENT SETINFO LIB-NAME tour", "^OK$"}, {"CLIENT SETINFO lib-ver 1.2", "^OK$"}, {"CLIENT INFO", "lib-name=tour lib-ver=1.2"}, {"CLIENT SETINFO lib-os x", "^ERR Unrecognized option 'lib-os'$"},
		{"CLIENT SETINFO lib-name a|b", "^ERR lib-name cannot contain spaces"}, {"CLIENT KILL MAXAGE 1", "^ERR syntax error$"}, // 7.4
		{"WAITAOF 1 0 100", `^\[1 0\]$`}, {"WAITAOF 2 0 0", "^ERR value is out of range, value must between 0 and 1$"}, {"WAITAOF 1 -1 0", "^ERR value is out of range, must be positive$"}, {"WAITAOF 1 0 -1", "^ERR timeout is negative$"},
		{"CLUSTER MYSHARDID", "cluster support disabled"}, {"COMMAND INFO waitaof", `^\[\[waitaof 4 `}, {"COMMAND INFO client|no-touch", "no-touch 3 "},
		{"CONFIG GET set-max-listpack-*", `^\[set-max-listpack-entries 128 set-max-listpack-value 64\]$`}, {"CONFIG GET locale-collate", `^\[locale-collate \]$`},
		{"SADD s a", "^1$"}, {"OBJECT ENCODING s", "^listpack$"}, {"RPUSH l a", "^1$"}, {"OBJECT ENCODING l", "^listpack$"},
		{"XADD x 1-1 f v", "^1-1$"}, {"XGROUP CREATE x g 0", "^OK$"}, {"XREADGROUP GROUP g c STREAMS x >", "1-1"}, {"XINFO CONSUMERS x g", `^\[\[name c pending 1 idle \d+ inactive \d+\]\]$`},
		{"XINFO STREAM x FULL", `seen-time \d+ active-time \d+`}, {"XREADGROUP GROUP g idle STREAMS x >", "^null$"}, {"XINFO CONSUMERS x g", `name idle pending 0 idle \d+ inactive -1`},
		{"INFO clients", "total_blocking_keys:0\r\ntotal_blocking_keys_on_nokey:0\r\n"}, {"INFO server", `listener0:name=tcp,bind=127.0.0.1,port=\d+`}, {"INFO stats", `acl_access_denied_auth:0\r\n`},
		{"LPOS l a RANK -9223372036854775808", "^ERR value is out of range"}, {"HELLO 2", "version 7.2.4"}, {"EVAL return|redis.REDIS_VERSION..'|'..redis.REDIS_VERSION_NUM 0", "^7.2.4.459268$"},
		{"ACL SETUSER ann on >secret ~* +@all", "^OK$"}, {"HELLO 2 SETNAME me AUTH ann wrong", "^WRONGPASS"}, {"CLIENT GETNAME", "^null$"}, // nothing changes
		{"HELLO 2 AUTH ann secret SETNAME a|b", "^ERR Client names cannot contain spaces"}, {"ACL WHOAMI", "^default$"}, {"HELLO 2 AUTH ann secret FOO", "^ERR Syntax error in HELLO option 'FOO'$"}, {"ACL WHOAMI", "^default$"},
		{"AUTH ann wrong", "^WRONGPASS"}, {"ACL LOG 1", `entry-id \d+ timestamp-created \d+ timestamp-last-updated \d+`},
	} {
		args := strings.Fields(test.call)
		for i := range args {
			if !strings.Contains(args[i], "client|") {
				args[i] = strings.ReplaceAll(args[i], "|", " ")
			}
		}
		reply, err := c.do(args...)
		got := shown(reply)
		if err != nil {
			got = err.Error()
		}
		if !regexp.MustCompile(test.want).MatchString(got) {
			t.Errorf("%q answers %q, want %s", args, got, test.want)
		}
	}
}

func without(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(other, s) })
}

// What could go wrong: a popular client cannot even connect. go-redis pipelines HELLO and CLIENT SETINFO, and uses pipelines,
// transactions and optimistic locking.
func TestGoRedisWorks(t *testing.T) {
	w := start(t, local.Options{Replicas: 1, Confmasters: 1}, nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, protocol := range []int{2, 3} {
		client := redis.NewClient(&redis.Options{Addr: w.addr("n1"), Protocol: protocol, ClientName: "e2e"})
		defer client.Close()
		if got, err := client.Ping(ctx).Result(); err != nil || got != "PONG" {
			t.Fatalf("protocol %d: PING: %q, %v", protocol, got, err)
		}
		key := "k" + string(rune('0'+protocol))
		commands, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, key, "1", 0)
			p.Incr(ctx, key)
			p.HSet(ctx, key+":h", "a", "1", "b", "2")
			p.ZAdd(ctx, key+":z", redis.Z{Score: 1.5, Member: "m"})
			return nil
		})
		if err != nil || len(commands) != 4 {
			t.Errorf("protocol %d: pipeline: %v", protocol, err)
		}
		if got, err := client.HGetAll(ctx, key+":h").Result(); err != nil || len(got) != 2 {
			t.Errorf("protocol %d: HGETALL: %v, %v", protocol, got, err)
		}
		if got, err := client.ZRangeWithScores(ctx, key+":z", 0, -1).Result(); err != nil || len(got) != 1 || got[0].Score != 1.5 {
			t.Errorf("protocol %d: ZRANGE: %v, %v", protocol, got, err)
		}
		transaction := func(tx *redis.Tx) error {
			_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
				p.Set(ctx, key, "changed", 0)
				return nil
			})
			return err
		}
		if err := client.Watch(ctx, transaction, key); err != nil {
			t.Errorf("protocol %d: WATCH: %v", protocol, err)
		}
		err = client.Watch(ctx, func(tx *redis.Tx) error {
			if err := client.Set(ctx, key, "meanwhile", 0).Err(); err != nil {
				return err
			}
			return transaction(tx)
		}, key)
		if err != redis.TxFailedErr {
			t.Errorf("protocol %d: a watched key was changed, EXEC: %v", protocol, err)
		}
		if got := client.Get(ctx, key).Val(); got != "meanwhile" {
			t.Errorf("protocol %d: %s is %q", protocol, key, got)
		}
	}
}
