package translator_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/translator"
)

func processRig(t testing.TB, timeout string, change func(*translator.Settings)) *rig {
	t.Helper()
	script, err := filepath.Abs("testdata/service.sh")
	if err != nil {
		t.Fatal(err)
	}
	return newRig(t, blockchain.ServiceTypeProcess, rigOptions{timeout: timeout, settings: func(s *translator.Settings) {
		s.Process.Executable, s.Process.Arguments = "/bin/sh", []string{script}
		if change != nil {
			change(s)
		}
	}})
}

// ask sends text to the program as the raw message of a method and gives its raw answer.
func (r *rig) ask(t *testing.T, path, text string) rawAnswer {
	t.Helper()
	return r.raw(t, path, frame(0, []byte(text)), nil)
}

func TestProcessCall(t *testing.T) {
	r := processRig(t, "", nil)
	for _, size := range []int{0, 1, 4 << 10, 4<<10 + 1, 64 << 10, 1 << 20} {
		message := bytes.Repeat([]byte{0x20}, size)
		if answer := r.ask(t, pathEcho, string(message)); answer.code != codes.OK || !bytes.Equal(answer.body, frame(0, message)) {
			t.Errorf("%d bytes: %s %q, %d bytes came back", size, answer.code, answer.message, len(answer.body))
		}
	}
	if answer := r.ask(t, pathForget, "not read by anybody"); answer.code != codes.OK || !bytes.Equal(answer.body, frame(0, nil)) {
		t.Errorf("no output: %+v", answer)
	}
	bothWays(t, func(t *testing.T, web bool) {
		reply, id, err := r.call(t.Context(), web, pathEcho, `{"big": "7", "data": "CgA="}`)
		if err != nil || reply != `{"big":"7","data":"CgA="}` {
			t.Errorf("%s, %v", reply, err)
		}
		if entry := r.entry(id); !web && (entry.GRPCStatus == nil || *entry.GRPCStatus != 0) {
			t.Errorf("%+v", entry)
		}
	})
	for _, path := range []string{pathSum, pathChat} {
		if answer := r.ask(t, path, "x"); answer.code != codes.Unimplemented {
			t.Errorf("%s: %+v", path, answer)
		}
	}
	if err := r.translator.Unsupported(pathWatch); err != nil {
		t.Error(err)
	}
}

func TestProcessLargeMessages(t *testing.T) {
	const size = 16 << 20
	r := processRig(t, "", func(s *translator.Settings) { s.MaxMessageSize = size })
	message := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	if answer := r.ask(t, pathEcho, string(message)); answer.code != codes.OK || !bytes.Equal(answer.body, frame(0, message)) {
		t.Errorf("%s %q, %d bytes came back", answer.code, answer.message, len(answer.body))
	}
}

// The program sees what the settings say, and nothing of this process.
func TestProcessSurroundings(t *testing.T) {
	t.Setenv("MPEGATE_SECRET", "ours")
	folder := t.TempDir()
	secret := filepath.Join(folder, "secret")
	if err := os.WriteFile(secret, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := processRig(t, "", func(s *translator.Settings) {
		s.Process.Input = translator.InputJSON
		s.Process.WorkingDirectory = folder
		s.Process.Environment = []string{"LANG=C", "EMPTY="}
		s.Process.EnvironmentFiles = []string{"SECRET=" + secret}
	})
	reply, _, err := r.call(t.Context(), false, pathFree, `{}`)
	if err != nil {
		t.Fatal(err)
	}
	resolved, err := filepath.EvalSymlinks(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"arguments":"Free"`, `"folder":"` + resolved + `"`, "EMPTY= LANG=C", "SECRET=from a file"} {
		if !strings.Contains(reply, want) {
			t.Errorf("the program reports %s, without %s", reply, want)
		}
	}
	if strings.Contains(reply, "ours") || strings.Contains(reply, "HOME=") {
		t.Errorf("the program sees %s", reply)
	}
}

func TestProcessJSON(t *testing.T) {
	r := processRig(t, "", func(s *translator.Settings) { s.Process.Input = translator.InputJSON })
	const message = `{"big":"18446744073709551615","list":["-9007199254740993"]}`
	reply, _, err := r.call(t.Context(), true, pathEcho, message)
	if err != nil || reply != message {
		t.Errorf("%s, %v", reply, err)
	}
	// Forget says nothing, which is no JSON.
	if _, _, err := r.call(t.Context(), true, pathForget, `{}`); status.Code(err) != codes.Internal {
		t.Errorf("%v", err)
	}
	if answer := r.ask(t, pathEcho, "garbage"); answer.code != codes.InvalidArgument {
		t.Errorf("%+v", answer)
	}
}

func TestProcessFailures(t *testing.T) {
	r := processRig(t, "", func(s *translator.Settings) {
		s.MaxMessageSize = 64 << 10
		s.Process.Environment = []string{"SECRET=stderr-secret"}
	})
	for _, c := range []struct {
		input, phrase string
		code          codes.Code
	}{
		{"exit 3", "failed: exit status 3", codes.Internal},
		{"exit 0", "", codes.OK},
		{"kill", "failed: signal 9", codes.Internal},
		{"flood", "larger than the 65536 bytes", codes.ResourceExhausted},
		{"noise", "", codes.OK},
		{"escape", "", codes.OK},
	} {
		answer := r.ask(t, pathAdd, c.input+"\n")
		if answer.code != c.code || !strings.Contains(answer.message, c.phrase) || strings.Contains(answer.message, "stderr") || strings.Contains(answer.message, "partial") {
			t.Errorf("%s: the client got %s %q, want %s with %q", c.input, answer.code, answer.message, c.code, c.phrase)
		}
	}
	logged := ""
	for _, line := range r.log.FilterMessageSnippet("stderr").All() {
		logged += fmt.Sprint(line.ContextMap()) + "\n"
	}
	if !strings.Contains(logged, "a secret on stderr stderr-secret") || !strings.Contains(logged, "eeee") || len(logged) > 3*8<<10 {
		t.Errorf("%d bytes of stderr are in the log: %.300s", len(logged), logged)
	}
	eventually(t, "no process is left", func() bool { return r.metric(t, "mpegate_translator_processes", "") == 0 })
	t.Run("no program", func(t *testing.T) {
		program := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(program, []byte("#!/nowhere/interpreter\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		r := processRig(t, "", func(s *translator.Settings) { s.Process.Executable = program })
		if answer := r.ask(t, pathAdd, "x"); answer.code != codes.Unavailable || strings.Contains(answer.message, program) {
			t.Errorf("%+v", answer)
		}
	})
}

// Whatever ends a call early, its process and what that has started end too.
func TestProcessKilled(t *testing.T) {
	for _, c := range []struct {
		name, envoyTimeout string
		timeout            time.Duration
		code               codes.Code
	}{
		{"process.timeout", "", 200 * time.Millisecond, codes.DeadlineExceeded},
		{"Envoy's timeout", "0.2s", 0, codes.DeadlineExceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := processRig(t, c.envoyTimeout, func(s *translator.Settings) { s.Process.Timeout = c.timeout })
			pid := filepath.Join(t.TempDir(), "pid")
			if answer := r.ask(t, pathAdd, "sleep "+pid+"\n"); answer.code != c.code {
				t.Errorf("the client got %s %q", answer.code, answer.message)
			}
			groupGone(t, readPID(t, pid))
			eventually(t, "the kill is counted", func() bool { return r.metric(t, "mpegate_translator_processes_killed_total", "") == 1 })
		})
	}
	r := processRig(t, "", nil)
	t.Run("the client goes away", func(t *testing.T) {
		pid := filepath.Join(t.TempDir(), "pid")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := r.rawIn(ctx, pathAdd, strings.NewReader(string(frame(0, []byte("sleep "+pid+"\n")))), nil, nil)
			ended <- err
		}()
		group := readPID(t, pid)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		groupGone(t, group)
		eventually(t, "the outcome is counted", func() bool { return r.metric(t, "mpegate_translator_calls_total", "client_gone") == 1 })
	})
	t.Run("the client's deadline", func(t *testing.T) {
		pid := filepath.Join(t.TempDir(), "pid")
		answer := r.raw(t, pathAdd, frame(0, []byte("sleep "+pid+"\n")), map[string]string{"grpc-timeout": "300m"})
		if answer.code != codes.DeadlineExceeded {
			t.Errorf("%+v", answer)
		}
		groupGone(t, readPID(t, pid))
	})
	t.Run("children that stay behind", func(t *testing.T) {
		pid := filepath.Join(t.TempDir(), "pid")
		if answer := r.ask(t, pathAdd, "leave "+pid+"\n"); answer.code != codes.OK || !strings.HasSuffix(string(answer.body), "done\n") {
			t.Errorf("%+v", answer)
		}
		processGone(t, readPID(t, pid))
	})
	t.Run("the translator stops", func(t *testing.T) {
		pid := filepath.Join(t.TempDir(), "pid")
		ended := make(chan rawAnswer, 1)
		go func() {
			answer, _ := r.rawIn(t.Context(), pathAdd, strings.NewReader(string(frame(0, []byte("sleep "+pid+"\n")))), nil, nil)
			ended <- answer
		}()
		group := readPID(t, pid)
		now, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.translator.Close(now); err == nil {
			t.Error("Close does not say that a call was cut")
		}
		if answer := <-ended; answer.code != codes.Unavailable {
			t.Errorf("%+v", answer)
		}
		groupGone(t, group)
	})
}

func readPID(t *testing.T, file string) int {
	t.Helper()
	var pid int
	eventually(t, "the program has started", func() bool {
		text, err := os.ReadFile(file)
		if err != nil || !strings.HasSuffix(string(text), "\n") {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err == nil
	})
	return pid
}

// groupGone waits until nothing of a group runs. Who was killed and only waits for init, its parent by now, does not.
func groupGone(t *testing.T, group int) {
	t.Helper()
	eventually(t, "the group is gone", func() bool {
		stats, err := filepath.Glob("/proc/[0-9]*/stat")
		if err != nil || len(stats) == 0 {
			return errors.Is(syscall.Kill(-group, 0), syscall.ESRCH)
		}
		for _, name := range stats {
			stat, err := os.ReadFile(name)
			if err != nil {
				continue // gone while we looked
			}
			fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // state, parent, group
			if fields[2] == strconv.Itoa(group) && fields[0] != "Z" {
				return false
			}
		}
		return true
	})
}

func processGone(t *testing.T, pid int) {
	t.Helper()
	eventually(t, "the process is gone", func() bool {
		return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || pid > 0 && isZombie(pid)
	})
}

// isZombie tells a process that only its parent, init, has yet to hear of.
func isZombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

// Processes run side by side up to a number, calls wait up to another, and the rest is refused at once.
func TestProcessQueue(t *testing.T) {
	r := processRig(t, "", func(s *translator.Settings) { s.Process.Concurrency, s.Process.QueueLength = 2, 1 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var calls sync.WaitGroup
	start := func(input string) {
		calls.Go(func() { _, _ = r.rawIn(ctx, pathAdd, bytes.NewReader(frame(0, []byte(input))), nil, nil) })
	}
	folder := t.TempDir()
	for i := range 2 {
		file := filepath.Join(folder, strconv.Itoa(i))
		start("sleep " + file + "\n")
		readPID(t, file)
	}
	start("waits")
	eventually(t, "a call waits", func() bool { return r.metric(t, "mpegate_translator_process_queue", "") == 1 })
	if answer := r.ask(t, pathAdd, "x"); answer.code != codes.ResourceExhausted {
		t.Errorf("%+v", answer)
	}
	// One that waits can be given up.
	if running := r.metric(t, "mpegate_translator_processes", ""); running != 2 {
		t.Errorf("%g processes run", running)
	}
	cancel()
	calls.Wait()
	eventually(t, "all places are free", func() bool {
		return r.metric(t, "mpegate_translator_process_queue", "") == 0 && r.metric(t, "mpegate_translator_processes", "") == 0
	})
	if answer := r.ask(t, pathAdd, "x y"); answer.code != codes.OK || string(answer.body[5:]) != "x y" {
		t.Errorf("%+v", answer)
	}
}

func TestProcessManyCalls(t *testing.T) {
	r := processRig(t, "", nil)
	var calls sync.WaitGroup
	for i := range 32 {
		calls.Go(func() {
			for j := range 3 {
				want := fmt.Sprintf("%d %d", i, j)
				answer, err := r.rawIn(t.Context(), pathAdd, bytes.NewReader(frame(0, []byte(want))), nil, nil)
				if err != nil || answer.code != codes.OK || string(answer.body[5:]) != want {
					t.Errorf("%s: %v, %+v", want, err, answer)
				}
			}
		})
	}
	calls.Wait()
}
