// Command oracle records how redis-server answers: transcripts of generated commands for the tests of internal/kv, and
// what COMMAND INFO and COMMAND DOCS say about its commands.
//
//	go run ./internal/kv/oracle            (from the module's directory; needs redis-server 7.0)
//	go run ./internal/kv/oracle -soak -type zsets -count 1000000 -seed 7
//	go run ./internal/kv/oracle -memory
//
// It starts a redis-server of its own on a free port of the loopback interface and stops it. The transcripts are text:
// "> " and the quoted arguments, then "< " and the quoted bytes of the reply; "@ stamp <ms> proto <n>" begins a sequence.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"lockstep/internal/resp"
)

func main() {
	binary := flag.String("redis", "redis-server", "redis-server to ask")
	dir := flag.String("dir", "internal/kv", "directory of package kv")
	sequences := flag.Int("sequences", 24, "sequences of each transcript")
	length := flag.Int("length", 80, "commands of each sequence")
	seed := flag.Uint64("seed", 1, "seed of the generated commands")
	transcript := flag.String("only", "", "transcripts to record, separated by commas; empty: all")
	only := flag.Bool("only-commands", false, "record COMMAND INFO and COMMAND DOCS only")
	soaking := flag.Bool("soak", false, "compare random commands instead of recording")
	kinds := flag.String("type", "all", "with -soak: transcripts whose commands are compared, separated by commas")
	count := flag.Int("count", 100_000, "with -soak: commands of each type")
	memory := flag.Bool("memory", false, "compare the memory that keys take instead of recording")
	filled := flag.String("filled", "", "with -memory: only fillings whose name contains this")
	onlyScripts := flag.Bool("only-scripts", false, "record the answers to scripts only")
	flag.Parse()
	s, err := startServer(*binary)
	if err != nil {
		log.Fatal(err)
	}
	if *memory {
		err := compareMemory(s, os.Stdout, *filled)
		s.stop()
		if err != nil {
			log.Fatal(err)
		}
		return
	}
	if *soaking {
		differences, err := soakAll(s, *kinds, *count, *seed)
		s.stop()
		if err != nil {
			log.Fatal(err)
		}
		if differences > 0 {
			os.Exit(1)
		}
		return
	}
	if !*onlyScripts {
		err = recordCommands(s, filepath.Join(*dir, "commands.resp"))
	}
	if err == nil && !*only {
		err = recordScripts(s, filepath.Join(*dir, "testdata", "scripts.txt"), *seed)
	}
	if err == nil && !*only && !*onlyScripts {
		err = recordAll(s, filepath.Join(*dir, "testdata"), *transcript, *sequences, *length, *seed)
	}
	s.stop()
	if err != nil {
		log.Fatal(err)
	}
}

func soakAll(s *server, kinds string, count int, seed uint64) (differences int, err error) {
	names := strings.Split(kinds, ",")
	if kinds == "all" {
		names = append(slices.Sorted(maps.Keys(grammar)), "documented", "getkeys", "scripts", "streams")
	}
	for _, name := range names {
		if grammar[name] == nil && !slices.Contains([]string{"documented", "getkeys", "scripts", "streams"}, name) {
			return differences, fmt.Errorf("unknown type %q", name)
		}
		found, err := soak(s, name, count, seed)
		differences += found
		if err != nil {
			return differences, fmt.Errorf("soak %s: %w", name, err)
		}
		log.Printf("%s: %d commands, %d kinds of difference", name, count, found)
	}
	return differences, nil
}

func recordAll(s *server, dir, only string, sequences, length int, seed uint64) error {
	for i, name := range slices.Sorted(maps.Keys(grammar)) {
		if only != "" && !slices.Contains(strings.Split(only, ","), name) {
			continue
		}
		g := generator{rand.New(rand.NewPCG(seed, uint64(i)))}
		var out bytes.Buffer
		wanted := sequences
		if name == "hyperloglogs" { // twelve kilobytes a reply
			wanted = max(1, sequences/8)
		}
		for j := range wanted {
			commands := slices.Clone(fixture)
			for range length {
				commands = append(commands, g.command(grammar[name]))
			}
			if err := recordSequence(s, &out, 2+j%2, commands); err != nil {
				return fmt.Errorf("record %s: %w", name, err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name+".txt"), out.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if only == "" || slices.Contains(strings.Split(only, ","), "found") {
		var out bytes.Buffer
		for i, commands := range found {
			if err := recordSequence(s, &out, 2+i%2, append([][]string{{"flushall"}}, commands...)); err != nil {
				return fmt.Errorf("record what soaks have found: %w", err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "found.txt"), out.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if only == "" || slices.Contains(strings.Split(only, ","), "getkeys") {
		if err := recordKeys(s, filepath.Join(dir, "getkeys.txt"), seed); err != nil {
			return fmt.Errorf("record the keys of commands: %w", err)
		}
	}
	if only != "" && !slices.Contains(strings.Split(only, ","), "streams") {
		return nil
	}
	if err := recordStreams(s, dir, max(1, sequences/4), 6*length, seed); err != nil {
		return err
	}
	if only != "" {
		return nil
	}
	var introspection bytes.Buffer
	for proto := 2; proto <= 3; proto++ {
		if err := recordSequence(s, &introspection, proto, introspectionCommands); err != nil {
			return fmt.Errorf("record introspection: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "command.txt"), introspection.Bytes(), 0o644); err != nil {
		return err
	}
	var out bytes.Buffer
	g := generator{rand.New(rand.NewPCG(seed, 1000))}
	if err := recordSequence(s, &out, 2, append([][]string{{"flushall"}}, g.large()...)); err != nil {
		return fmt.Errorf("record large: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, "large.txt"), out.Bytes(), 0o644)
}

// recordKeys records COMMAND GETKEYS and GETKEYSANDFLAGS: of calls of every command as they are documented, and of those whose keys are
// where no rule finds them.
func recordKeys(s *server, file string, seed uint64) error {
	d, err := newDocumented(s, generator{rand.New(rand.NewPCG(seed, 2000))}, true)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for proto := 2; proto <= 3; proto++ {
		var commands [][]string
		for _, line := range movableKeys {
			commands = append(commands, append([]string{"command", "getkeys"}, strings.Fields(line)...), append([]string{"command", "getkeysandflags"}, strings.Fields(line)...))
		}
		for i := range d.commands { // each of them four times
			for range 4 {
				commands = append(commands, d.aboutKeys(d.call(d.commands[i])))
			}
		}
		if err := recordSequence(s, &out, proto, commands); err != nil {
			return err
		}
	}
	return os.WriteFile(file, out.Bytes(), 0o644)
}

func recordSequence(s *server, out *bytes.Buffer, proto int, commands [][]string) error {
	if _, err := s.do("hello", strconv.Itoa(proto)); err != nil {
		return err
	}
	fmt.Fprintf(out, "@ stamp %d proto %d\n", time.Now().UnixMilli(), proto)
	for _, args := range commands {
		reply, err := s.do(args...)
		if err != nil {
			return err
		}
		out.WriteByte('>')
		for _, arg := range args {
			out.WriteByte(' ')
			out.WriteString(strconv.Quote(arg))
		}
		fmt.Fprintf(out, "\n< %s\n", strconv.Quote(string(reply)))
	}
	return nil
}

// recordCommands writes three RESP3 replies, one behind the other: COMMAND INFO and COMMAND DOCS of every
// command of the server, sorted by name, and COMMAND HELP.
func recordCommands(s *server, file string) error {
	if _, err := s.do("hello", "3"); err != nil {
		return err
	}
	listReply, err := s.do("command", "list")
	if err != nil {
		return err
	}
	list, _, err := resp.Decode(listReply)
	if err != nil {
		return err
	}
	var names []string
	for _, item := range list.Items {
		if !strings.Contains(item.Text, "|") {
			names = append(names, item.Text)
		}
	}
	slices.Sort(names)
	info, docs := append([]string{"command", "info"}, names...), append([]string{"command", "docs"}, names...)
	infoReply, err := s.do(info...)
	if err != nil {
		return err
	}
	docsReply, err := s.do(docs...)
	if err != nil {
		return err
	}
	helpReply, err := s.do("command", "help")
	if err != nil {
		return err
	}
	out := resp.Reply{Proto: 3}
	for _, reply := range [][]byte{infoReply, docsReply, helpReply} {
		v, _, err := resp.Decode(reply)
		if err != nil {
			return err
		}
		sortSubcommands(v)
		v.Append(&out)
	}
	return os.WriteFile(file, out.Buf, 0o644)
}

// sortSubcommands gives the subcommands of a reply the order of their names; redis-server lists them in the order of a
// hash table that differs from run to run.
func sortSubcommands(v resp.Value) {
	size := 1
	if v.Kind == '%' {
		size = 2
	}
	for _, item := range v.Items {
		sortSubcommands(item)
	}
	name := func(group []resp.Value) string {
		if size == 1 && len(group[0].Items) > 0 {
			group = group[0].Items
		}
		return group[0].Text
	}
	groups := slices.Collect(slices.Chunk(slices.Clone(v.Items), max(size, 1)))
	for _, group := range groups {
		if !strings.Contains(name(group), "|") {
			return
		}
	}
	slices.SortFunc(groups, func(a, b []resp.Value) int { return strings.Compare(name(a), name(b)) })
	copy(v.Items, slices.Concat(groups...))
}
