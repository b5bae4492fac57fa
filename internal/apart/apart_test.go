package apart

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lockstep/internal/place"

	"golang.org/x/sys/unix"
)

// The test's own program stands for both: the one that begins another, and the other.
func TestMain(m *testing.M) {
	if len(os.Args) < 3 || os.Args[1] != "apart" {
		os.Exit(m.Run())
	}
	switch os.Args[2] {
	case "echo":
		Yield("apart-echo")
		fmt.Println("ready")
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "fail":
		fmt.Fprintln(os.Stderr, strings.Repeat("much before it\n", 10_000)+"the reason")
		os.Exit(7)
	case "begin": // one that is killed while another one runs
		p, err := Start("apart", "sleep")
		if err != nil {
			panic(err)
		}
		fmt.Println(p.ID())
		select {}
	case "sleep":
		Yield("apart-sleep")
		time.Sleep(time.Hour)
	}
}

func TestProcessGivesWayAndEnds(t *testing.T) {
	t.Parallel()
	p, err := Start("apart", "echo")
	if err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(p)
	if line, err := said.ReadString('\n'); err != nil || line != "ready\n" {
		t.Errorf("it said %q, %v", line, err)
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", p.ID()))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("threads: %q, %v", tasks, err)
	}
	own, err := unix.Getpriority(unix.PRIO_PROCESS, os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(filepath.Base(task))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := unix.Getpriority(unix.PRIO_PROCESS, id); err != nil || got != max(own-Nice, 1) {
			t.Errorf("a thread has the priority %d, %v; this process has %d", got, err, own)
		}
	}
	for name, want := range map[string]string{"comm": "apart-echo", "oom_score_adj": leastBadness} {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.ID(), name)); err != nil || strings.TrimSpace(string(text)) != want {
			t.Errorf("%s is %q, %v", name, text, err)
		}
	}
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/autogroup", p.ID())); err == nil && !strings.HasSuffix(strings.TrimSpace(string(text)), fmt.Sprint(" nice ", Nice)) {
		t.Errorf("its session is %q", text)
	}
	if _, err := p.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if line, err := said.ReadString('\n'); err != nil || line != "hello\n" {
		t.Errorf("it said %q, %v", line, err)
	}
	p.Kill()
	if err := p.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("it ended with %v", err)
	}
	if _, err := p.Write([]byte("more")); err == nil {
		t.Error("a process that has ended is written to")
	}
	if p.Wait() == nil {
		t.Error("waiting again says that it ended by itself")
	}
	// This process is as nice as it was.
	if again, err := unix.Getpriority(unix.PRIO_PROCESS, os.Getpid()); err != nil || again != own {
		t.Errorf("this process has the priority %d now, %v", again, err)
	}
}

func TestProcessTellsWhyItEnded(t *testing.T) {
	t.Parallel()
	p, err := Start("apart", "fail")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err == nil || !strings.HasPrefix(err.Error(), "exit status 7: ") || !strings.HasSuffix(err.Error(), "the reason") || len(err.Error()) > tailBytes+20 {
		t.Errorf("it ended with %v", err)
	}
}

func TestProcessDoesNotOutliveWhoBeganIt(t *testing.T) {
	t.Parallel()
	command := exec.Command(os.Args[0], "apart", "begin")
	out, err := command.StdoutPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	id, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait() // it was killed
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id))
		if errors.Is(err, os.ErrNotExist) || strings.Contains(string(state), ") Z ") || syscall.Kill(id, 0) != nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d goes on", id)
		}
	}
}

// What is begun uses the processors that the environment names, whatever this process itself may use.
func TestProcessRoams(t *testing.T) {
	var allowed, last unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	processor := 0
	for left := allowed.Count(); left > 0; processor++ {
		if allowed.IsSet(processor) {
			left--
		}
	}
	last.Set(processor - 1)
	for list, want := range map[string]unix.CPUSet{strconv.Itoa(processor - 1): last, "": allowed} {
		t.Setenv(place.Roaming, list)
		p, err := Start("apart", "sleep")
		if err != nil {
			t.Fatal(err)
		}
		var got unix.CPUSet
		if err := unix.SchedGetaffinity(p.ID(), &got); err != nil || got != want {
			t.Errorf("%q: %v, %v, not %v", list, err, got, want)
		}
		p.Kill()
		_ = p.Wait()
	}
}
