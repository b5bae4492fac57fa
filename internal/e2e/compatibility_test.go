package e2e

import (
	"context"
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
	missing = regexp.MustCompile("(?s)<!-- absent -->(.*)<!-- end of absent -->")
	command = regexp.MustCompile("`([A-Z_-]+(?: [A-Z]+)?)`")
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
