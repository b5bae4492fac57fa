package ctl

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal opens a terminal and what reads from behind it.
func terminal(t *testing.T) (screen, behind *os.File) {
	t.Helper()
	behind, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { behind.Close() })
	fd := int(behind.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	return screen, behind
}

// What could go wrong: a bar is drawn into a file or beside JSON, has colours, stays on the screen, or says less than the lines that it replaces.
func TestProgressIsABarOnlyWhereSomebodyLooks(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "1")
	tty, behind := terminal(t)
	s := &screen{out: &bytes.Buffer{}, notes: tty, format: "table"}
	p := s.bytesDone()
	p.tell("fetching the backup", 1<<20, 4<<20)
	time.Sleep(2 * barEvery)
	p.tell("fetching the backup", 3<<20, 4<<20)
	p.tell("executing the archived log", 10, 0)
	p.end()
	if _, err := tty.WriteString("\nEND\n"); err != nil {
		t.Fatal(err)
	}
	var drawn []byte
	piece := make([]byte, 4096)
	for !bytes.Contains(drawn, []byte("END")) {
		n, err := behind.Read(piece)
		if err != nil {
			t.Fatal(err)
		}
		drawn = append(drawn, piece[:n]...)
	}
	for _, want := range []string{"fetching the backup", "75%", "executing the archived log"} {
		if !bytes.Contains(drawn, []byte(want)) {
			t.Errorf("%q is not drawn: %q", want, drawn)
		}
	}
	if bytes.Contains(drawn, []byte("\x1b[3")) {
		t.Errorf("there are colours: %q", drawn)
	}
	last := string(drawn[:bytes.Index(drawn, []byte("END"))])
	if lines := strings.Split(strings.TrimRight(last, "\r\n"), "\r"); strings.TrimSpace(lines[len(lines)-1]) != "" {
		t.Errorf("the bar stays: %q", drawn)
	}
	s.format = "json"
	if s.drawsBars() {
		t.Error("a bar would be drawn beside JSON")
	}
	var notes bytes.Buffer
	s = &screen{out: &bytes.Buffer{}, notes: &notes, format: "table"}
	p = s.bytesDone()
	p.last = time.Now().Add(-lineEvery)
	p.tell("fetching the backup", 1<<20, 4<<20)
	p.tell("fetching the backup", 2<<20, 4<<20)
	p.end()
	if notes.String() != "fetching the backup: 1.0 MiB of 4.0 MiB (25 %)\n" {
		t.Errorf("%q", notes.String())
	}
}
