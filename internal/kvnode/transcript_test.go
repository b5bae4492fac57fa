package kvnode

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// record names a redis-server whose answers are written into the transcripts:
//
//	go test ./internal/kvnode -run TestTranscripts -record 127.0.0.1:7799
//
// The server must be empty and freshly started; the answers that are in the repository are those of 7.0.15.
var record = flag.String("record", "", "host:port of a redis-server to record transcripts from")

// What the shell answers by itself must be, byte for byte, what Redis answers. A transcript is a text file:
//
//	# comment
//	> WORD "word\r\n" ...     a command, as an array of bulk strings
//	>> "raw bytes"            bytes as they are
//	? WORD ...                a command whose reply is not compared
//	<                         wait for a message that nobody asked for
//	                          behind each: the reply, its lines quoted if they are not plain; "(closed)" for the end
//	@name                     what follows is said on the connection of that name
//	{addr:name} {id:name} {laddr}   in a command: address and id of the client @name, address of the server
//
// A blank line ends all connections.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			address := *record
			if address == "" {
				address = newFakeGroup(t, 1, nil).serve(t, 0)
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runTranscript(t, address, string(want))
			switch {
			case *record != "":
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			case got != string(want):
				t.Error(difference(string(want), got))
			}
		})
	}
}

// patience is how long a reply may take.
const patience = time.Minute

// runTranscript plays the requests of a transcript and returns it with the replies of the server.
func runTranscript(t *testing.T, address, script string) string {
	var out strings.Builder
	defer func() {
		if t.Failed() {
			t.Log("so far: ", out.String())
		}
	}()
	var c *redisClient
	others := make(map[string]*redisClient)
	for line := range strings.Lines(script) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "":
			if c != nil {
				c.Close()
			}
			for _, other := range others {
				other.Close()
			}
			c = nil
			clear(others)
			out.WriteString("\n")
		case strings.HasPrefix(line, "@"):
			out.WriteString(line + "\n")
			if c = others[line]; c == nil {
				c = dial(t, address)
				others[line] = c
			}
		case line == "<":
			c.SetDeadline(time.Now().Add(patience))
			reply := c.next()
			out.WriteString(line + "\n" + show(reply))
			if reply == nil {
				out.WriteString("(closed)\n")
			}
		case strings.HasPrefix(line, "#"):
			out.WriteString(line + "\n")
		case strings.HasPrefix(line, ">"), strings.HasPrefix(line, "?"):
			out.WriteString(line + "\n")
			if c == nil {
				c = dial(t, address)
			}
			c.SetDeadline(time.Now().Add(patience))
			if reply := exchange(t, c, fillIn(line, address, others)); line[0] == '>' {
				out.WriteString(reply)
			}
		}
	}
	return out.String()
}

// placeholder is what stands for something of another connection.
var placeholder = regexp.MustCompile(`\{(addr|id|laddr):?(\w*)\}`)

// fillIn puts addresses and ids where a transcript has placeholders.
func fillIn(line, server string, named map[string]*redisClient) string {
	return placeholder.ReplaceAllStringFunc(line, func(found string) string {
		parts := placeholder.FindStringSubmatch(found)
		switch c := named["@"+parts[2]]; parts[1] {
		case "addr":
			return c.LocalAddr().String()
		case "id":
			if c.id == "" {
				c.send("CLIENT ID")
				c.id = strings.Trim(string(c.next()), ":\r\n")
			}
			return c.id
		}
		return server
	})
}

// exchange sends one request and returns the reply as a transcript shows it. What comes until a marker PING is
// answered belongs to the request, so that none, one or several replies are seen as they are.
func exchange(t *testing.T, c *redisClient, line string) string {
	raw, isRaw := strings.CutPrefix(line, ">> ")
	var b []byte
	if isRaw {
		text, err := strconv.Unquote(raw)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		b = []byte(text)
	} else {
		b = appendCommand(nil, words(t, line[2:]))
	}
	if _, err := c.Write(b); err != nil {
		return "(closed)\n"
	}
	var replies []byte
	marker := []byte("$6\r\nmarker\r\n")
	waitsForMarker := !strings.Contains(line, "MULTI") && !strings.Contains(line, "CACHING") && !strings.Contains(line, "(") && !isRaw && !strings.HasPrefix(line, "> QUIT")
	if waitsForMarker && !c.queueing {
		c.Write(appendCommand(nil, [][]byte{[]byte("ECHO"), []byte("marker")}))
		for {
			reply := c.next()
			if reply == nil {
				return show(replies) + "(closed)\n"
			}
			if bytes.Equal(reply, marker) || bytes.HasPrefix(reply, []byte("-ERR Can't execute 'echo'")) || // a RESP2 client that listens
				bytes.HasPrefix(reply, []byte("-NOAUTH")) && len(replies) > 0 {
				break
			}
			replies = append(replies, reply...)
		}
	} else {
		reply := c.next()
		if reply == nil {
			return "(closed)\n"
		}
		replies = reply
		if bytes.HasPrefix(reply, []byte("-ERR Protocol error")) || strings.HasPrefix(line, "> QUIT") {
			if c.next() == nil {
				return show(replies) + "(closed)\n"
			}
		}
	}
	c.noteTransaction(line)
	return show(replies)
}

// noteTransaction follows whether commands are being queued: a marker would be queued, too.
func (c *redisClient) noteTransaction(line string) {
	switch strings.ToUpper(strings.TrimPrefix(line, "> ")) {
	case "MULTI":
		c.queueing = true
	case "EXEC", "DISCARD", "RESET":
		c.queueing = false
	}
}

// show prints a reply line by line.
func show(b []byte) string {
	var out strings.Builder
	for _, line := range strings.SplitAfter(string(b), "\r\n") {
		text, whole := strings.CutSuffix(line, "\r\n")
		switch {
		case line == "":
		case whole && strconv.Quote(text) == `"`+text+`"` && text != "" && !strings.ContainsAny(text[:1], ">#( ?<@"):
			fmt.Fprintln(&out, text)
		default:
			fmt.Fprintln(&out, strconv.Quote(line))
		}
	}
	return out.String()
}

// difference shows the first line that differs, with what stands before it.
func difference(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range a {
		if i >= len(b) || a[i] != b[i] {
			other := "(nothing)"
			if i < len(b) {
				other = b[i]
			}
			return fmt.Sprintf("line %d behind %q:\n want %s\n got  %s", i+1, a[max(0, i-1)], a[i], other)
		}
	}
	return "more replies than wanted: " + strings.Join(b[len(a):], "\n")
}
