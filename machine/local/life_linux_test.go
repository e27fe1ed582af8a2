package local_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// outcome runs a machine to its end and returns that.
func outcome(t *testing.T, p *testProvider, spec *machine.Spec) *machine.Exit {
	t.Helper()
	m := create(t, p, spec)
	exit := exited(t, p, m.ID).Exit
	if exit == nil {
		t.Fatalf("got no exit of %s, want one", m.ID)
	}
	return exit
}

func TestAMachineIsGivenACleanPlace(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false)
	out := filepath.Join(t.TempDir(), "out")
	spec := newSpec("clean", fmt.Sprintf(`{ env | sort; pwd; ls -A . "$TMPDIR"; ls /proc/self/fd | tr '\n' ' '; } > %s`, out))
	spec.Env = map[string]string{"GREETING": "hello world", "LANG": "de_DE.UTF-8"}
	if exit := outcome(t, p, spec); !exit.OK() {
		t.Fatalf("got %+v, want success", exit)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(p.dir, "supervisors", "1", "slots", "1", "work")
	tmp := filepath.Join(filepath.Dir(work), "tmp")
	id, err := os.ReadFile(filepath.Join(p.dir, "id"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"DAYFLY_GROUP=dayfly-" + string(id) + "/1.1",
		"DAYFLY_MACHINE=clean",
		"GREETING=hello world",
		"HOME=" + work,
		"LANG=de_DE.UTF-8",
		"PATH=" + os.Getenv("PATH"),
		"PWD=" + work, // the shell's own
		"TMPDIR=" + tmp,
		work,
		".:",
		"",
		tmp + ":",
		// Standard output is the script's, and the last is the listing's own.
		"0 1 2 3 ",
	}
	if got := strings.Split(string(text), "\n"); !slices.Equal(got, want) {
		t.Errorf("got %q,\nwant %q", got, want)
	}
}

func TestWhatAMachineLeavesIsNotFoundByTheNext(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false)
	out := filepath.Join(t.TempDir(), "out")
	traces := map[string]string{
		"nothing":          `true`,
		"files":            `touch a .b "c d" $TMPDIR/e`,
		"directories":      `mkdir -p a/b/c; touch a/b/c/d`,
		"no-permission":    `mkdir a; touch a/b; chmod 000 a .`,
		"an-open-door":     `chmod 777 . $TMPDIR`,
		"a-link-elsewhere": `cd ..; rmdir work; ln -s /etc work`,
		"no-directory":     `rmdir $TMPDIR`,
		"many-files":       `seq 3000 | xargs touch`,
	}
	for name, script := range traces {
		m := create(t, p, newSpec(name, script))
		if exit := exited(t, p, m.ID).Exit; !exit.OK() {
			t.Errorf("%s: got %+v, want success", name, exit)
		}
		if err := p.Destroy(t.Context(), m.ID); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		look := newSpec("after-"+name, fmt.Sprintf(`{ ls -A . "$TMPDIR" | grep -v '^\(.*:\|\)$'; stat -L -c %%a . "$TMPDIR"; pwd -P; } > %s`, out))
		m = create(t, p, look)
		exited(t, p, m.ID)
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(text); !strings.HasPrefix(got, "700\n700\n"+p.dir) {
			t.Errorf("after %s: got %q, want empty directories of mode 700 in %s", name, got, p.dir)
		}
		if err := p.Destroy(t.Context(), m.ID); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(p.dir, "trash")); err != nil || len(left) != 0 {
		t.Errorf("got %v, %v in the trash, want nothing", left, err)
	}
	if _, err := os.Stat("/etc/passwd"); err != nil {
		t.Fatal(err)
	}
}

func TestNobodyElseMayReadTheState(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false)
	create(t, p, newSpec("private", "exec sleep 1000"))
	err := filepath.WalkDir(p.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("got mode %v of %s, want %v", got, path, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(p.dir, "machines", "private"))
	if err != nil || strings.Contains(string(text), "sleep") {
		t.Errorf("got record %q, %v, want one without the command", text, err)
	}
}

func TestTheEndIsToldApart(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false)
	limited := func(spec *machine.Spec, size machine.Size) *machine.Spec {
		spec.Size = size
		return spec
	}
	program := func(name string, argv ...string) *machine.Spec {
		spec := newSpec(name, "")
		spec.Command = argv
		return spec
	}
	cases := []struct {
		name string
		spec *machine.Spec
		want func(*machine.Exit) bool
	}{
		{"Success", newSpec("success", "exit 0"), (*machine.Exit).OK},
		{"Code", newSpec("code", "exit 17"), func(e *machine.Exit) bool { return e.Code == 17 && e.Signal == "" }},
		{"Signal", newSpec("signal", "kill -KILL $$"), func(e *machine.Exit) bool { return e.Code == -1 && e.Signal == "SIGKILL" && !e.OOMKilled }},
		{"NoSuchProgram", program("missing", "no-such-program"), func(e *machine.Exit) bool {
			return e.Code == -1 && e.Signal == "" && strings.Contains(e.Message, `"no-such-program" is not in PATH`)
		}},
		{"NotExecutable", program("plain", "/etc/passwd"), func(e *machine.Exit) bool {
			return e.Code == -1 && strings.Contains(e.Message, "/etc/passwd cannot be executed")
		}},
		{"TooLongAnArgument", program("long", "true", strings.Repeat("a", 200_000)), func(e *machine.Exit) bool {
			return e.Code == -1 && strings.Contains(e.Message, "has 200000 bytes")
		}},
		{"OutOfMemory", limited(newSpec("hog", "exec tail /dev/zero"), machine.Size{MemoryMB: 32}), func(e *machine.Exit) bool {
			return e.OOMKilled && !e.DiskFull && e.Message != ""
		}},
		{"OutOfDisk", limited(newSpec("writer", "sleep 0.1; for i in 1 2 3; do head -c 3m /dev/zero > f$i || exit 1; done; exec sleep 1000"), machine.Size{DiskMB: 4}), func(e *machine.Exit) bool {
			return e.DiskFull && !e.OOMKilled && e.Message != ""
		}},
		{"TemporaryFilesCountToo", limited(newSpec("temporary", "for i in 1 2 3; do head -c 3m /dev/zero > $TMPDIR/f$i || exit 1; done; exec sleep 1000"), machine.Size{DiskMB: 4}), func(e *machine.Exit) bool {
			return e.DiskFull && !e.OOMKilled
		}},
		{"AgentsCode", newAgentSpec("agent", "exit 9"), func(e *machine.Exit) bool { return e.Code == 9 }},
		{"AgentsCommand", newAgentSpec("agent-command", "run exit 8"), func(e *machine.Exit) bool { return e.Code == 8 }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.spec.Size.MemoryMB > 0 && !p.Abilities().Memory {
				t.Skipf("no memory controller: %v", p.Abilities().Why)
			}
			if exit := outcome(t, p, c.spec); !c.want(exit) {
				t.Errorf("got %+v", exit)
			}
		})
	}
}

func TestWhatIsToldOfAnEndIsShort(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false)
	long := newSpec("long", "")
	long.Command = []string{strings.Repeat("é", 200<<10)}
	specs := []*machine.Spec{long, newAgentSpec("agent", "say "+strings.Repeat("é", 200<<10))}
	for _, spec := range specs {
		exit := outcome(t, p, spec)
		if len(exit.Message) > 1<<10 || len(exit.Message) < 1000 || !utf8.ValidString(exit.Message) || !strings.HasSuffix(exit.Message, "é…") {
			t.Errorf("%s: got a message of %d bytes that ends in %q, want a KiB at most of whole characters and a mark",
				spec.Name, len(exit.Message), exit.Message[max(0, len(exit.Message)-10):])
		}
	}
	if list, err := p.List(t.Context(), "tests"); err != nil || len(list) != len(specs) {
		t.Errorf("got %d machines, %v, want %d", len(list), err, len(specs))
	}
	path := newSpec("path", "")
	path.Command = []string{"/" + strings.Repeat("\x01", 150<<10)}
	if exit := outcome(t, p, path); len(exit.Message) > 1<<10 || !strings.Contains(exit.Message, "has 153601 bytes") {
		t.Errorf("got a message of %d bytes, %.300q, want a short one that says what is too long", len(exit.Message), exit.Message)
	}
}

func TestTheEndOfALifetime(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false)
	file := filepath.Join(t.TempDir(), "file")
	cases := []struct {
		name, script string
		code         int
		signal       string
	}{
		{"polite", `trap "echo asked > ` + file + `; exit 3" TERM; while :; do sleep 0.01; done`, 3, ""},
		{"stubborn", `trap "" TERM; while :; do sleep 0.01; done`, -1, "SIGKILL"},
		{"plain", `exec sleep 1000`, -1, "SIGTERM"},
	}
	for _, c := range cases {
		spec := newSpec(c.name, c.script)
		spec.Lifetime = 300 * time.Millisecond
		exit := outcome(t, p, spec)
		if !exit.Expired || exit.OK() || exit.Code != c.code || exit.Signal != c.signal || !strings.Contains(exit.Message, "lifetime of 300ms") {
			t.Errorf("%s: got %+v, want Expired with code %d and signal %q", c.name, exit, c.code, c.signal)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "asked\n" {
		t.Errorf("got %q, %v, want the polite one to have been asked", text, err)
	}
	agent := newAgentSpec("agent", "sleep")
	agent.Lifetime = 300 * time.Millisecond
	if exit := outcome(t, p, agent); !exit.Expired || exit.Code != 75 {
		t.Errorf("got %+v, want Expired and the agent's own code 75", exit)
	}
}

// descendants is a script that leaves a child, a session leader and a daemon that ignores what it can, and stays.
func descendants(dir string) string {
	return fmt.Sprintf(`cd %s
trap "" TERM HUP INT
sleep 1000 & echo $! > child
setsid sh -c 'echo $$ > session; exec sleep 1000' &
( setsid sh -c 'trap "" HUP TERM INT QUIT; (sh -c "echo \$\$ > daemon; while :; do sleep 1000; done" &) ' & )
(`+hidden+`)
echo $$ > first
wait`, dir)
}

// hidden is a script that leaves a daemon of which nothing tells whose it is: not its parent, its session, nor its
// environment. It ends when the daemon has written its id.
const hidden = `(setsid env -i PWD="$PWD" sh -c 'trap "" TERM; echo $$ > hidden; exec sleep 1000' &); while [ ! -s hidden ]; do sleep 0.01; done`

func descendantIDs(t *testing.T, dir string) []int {
	t.Helper()
	var pids []int
	for _, name := range []string{"first", "child", "session", "daemon", "hidden"} {
		pids = append(pids, readID(t, filepath.Join(dir, name)))
	}
	return pids
}

func wantDead(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d lives, want none", pid)
		}
	}
}

func TestDestroyLeavesNoDescendant(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		p := newProvider(t, newDir(t), scan)
		for _, spec := range []*machine.Spec{newSpec("command", ""), newAgentSpec("agent", "")} {
			dir := t.TempDir()
			if spec.Agent != nil {
				spec.Agent.Attempt = "run " + descendants(dir)
			} else {
				spec.Command = []string{"sh", "-c", descendants(dir)}
			}
			m := create(t, p, spec)
			pids := descendantIDs(t, dir)
			if err := p.Destroy(t.Context(), m.ID); err != nil {
				t.Fatal(err)
			}
			wantDead(t, pids)
			if _, err := p.Get(t.Context(), m.ID); !errors.Is(err, fault.NotFound) {
				t.Errorf("got %v, want fault.NotFound", err)
			}
		}
	})
}

func TestAMachineEndsWithItsFirstProcess(t *testing.T) {
	modes(t, func(t *testing.T, scan bool) {
		p := newProvider(t, newDir(t), scan)
		dir := t.TempDir()
		script := strings.TrimSuffix(descendants(dir), "wait") + "while [ ! -s session ] || [ ! -s daemon ]; do sleep 0.01; done; exit 5"
		if exit := outcome(t, p, newSpec("first", script)); *exit != (machine.Exit{Code: 5}) {
			t.Errorf("got %+v, want code 5 and nothing to add", exit)
		}
		wantDead(t, descendantIDs(t, dir))
	})
}

func TestMachinesBeyondTheLimitAreRefused(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false, "max=3")
	for i := range 3 {
		create(t, p, newSpec(fmt.Sprintf("m%d", i), "exec sleep 1000"))
	}
	m, err := p.Create(t.Context(), newSpec("m3", "true"))
	if !errors.Is(err, fault.Exhausted) {
		t.Errorf("got %+v, %v, want fault.Exhausted", m, err)
	}
	if err := p.Destroy(t.Context(), "m0"); err != nil {
		t.Fatal(err)
	}
	create(t, p, newSpec("m3", "true"))
}

func TestAMachineForWhichThereAreNoDescriptorsIsRefusedAndNotMade(t *testing.T) {
	t.Parallel()
	for _, descriptors := range []int{128, 192} {
		p := newProvider(t, newDir(t), false, fmt.Sprintf("descriptors=%d", descriptors))
		release := filepath.Join(t.TempDir(), "release")
		var made []string
		var err error
		for err == nil {
			m, failed := p.Create(t.Context(), newAgentSpec(fmt.Sprintf("m%d", len(made)), "busy while [ ! -e "+release+" ]; do sleep 0.01; done"))
			if err = failed; err == nil {
				made = append(made, m.ID)
			}
		}
		if want := (descriptors - 64) / 13; !errors.Is(err, fault.Exhausted) || !strings.Contains(err.Error(), "limit") || len(made) != want {
			t.Errorf("with %d descriptors: got %d machines and %v, want %d and fault.Exhausted for the limit", descriptors, len(made), err, want)
		}
		if err := os.WriteFile(release, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, id := range made {
			if exit := exited(t, p, id).Exit; !exit.OK() {
				t.Errorf("with %d descriptors: got %+v of %s, want success of every machine that was made", descriptors, exit, id)
			}
		}
	}
}

func TestAgentsAreToldWhereHomeIs(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false)
	file := filepath.Join(t.TempDir(), "home")
	reads := func(want string) func() bool {
		return func() bool {
			text, _ := os.ReadFile(file)
			return string(text) == want
		}
	}
	if _, err := p.Create(t.Context(), newAgentSpec("agent", "home "+file)); err != nil {
		t.Fatal(err)
	}
	p.SetHome("http://first:1")
	eventually(t, "the agent knows the first home", reads("http://first:1"))
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	second := newProvider(t, p.dir, false)
	running(t, second)
	second.SetHome("http://second:2")
	eventually(t, "the agent knows the second home", reads("http://second:2"))
	if err := second.Destroy(t.Context(), "agent"); err != nil {
		t.Fatal(err)
	}
}
