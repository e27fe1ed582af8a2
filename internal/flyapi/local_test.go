package flyapi_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMachinesOfThisComputerGoOnWhenTheServerIsKilled(t *testing.T) {
	t.Parallel()
	p := newProcess(t)
	p.launch("")
	m := p.started(`{"image":"app:1"}`)
	p.eventually("its program runs", func() bool { return p.starts() == 1 })
	p.kill()
	p.launch("")
	if got := p.get(m.ID); got.State != "started" || len(got.Events) != 2 {
		t.Errorf("after the kill: got %+v, want it started as it was", got)
	}
	p.want(200, nil, "POST", machines+"/"+m.ID+"/stop", nil)
	p.wait(m.ID, "stopped")
	got := p.get(m.ID)
	exit := got.Events[0].Request["exit_event"].(map[string]any)
	if exit["guest_exit_code"] != 0.0 || exit["requested_stop"] != true || p.starts() != 1 {
		t.Errorf("the exit: got %v after %d starts, want the status 0 of a program that ended at the signal, started once", exit, p.starts())
	}
}

func TestProgramsOfThisComputerStandForImages(t *testing.T) {
	t.Parallel()
	p := newProcess(t)
	p.launch("")
	out := filepath.Join(p.dir, "out")
	run := func(config string) string {
		t.Helper()
		_ = os.Remove(out)
		m := p.create(config)
		p.wait(m.ID, "destroyed")
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatalf("the output of %s: %v; its events are %+v", config, err, p.get(m.ID).Events)
		}
		return string(data)
	}
	base := fmt.Sprintf(`"image":"shell:1","auto_destroy":true,"restart":{"policy":"no"},"env":{"OUT":%q,"EVENTS_PATH":"/tmp/events.json"}`, out)
	events := base64.StdEncoding.EncodeToString([]byte(`[{"a":1}]`))
	file := fmt.Sprintf(`"files":[{"guest_path":"/tmp/events.json","raw_value":%q,"mode":448}]`, events)
	for name, c := range map[string]struct{ config, want string }{
		"init.exec":          {`{` + base + `,"init":{"exec":["sh","-c","echo $FLY_REGION $FLY_VM_MEMORY_MB > $OUT"]}}`, "ams 256\n"},
		"init.cmd":           {`{` + base + `,"init":{"entrypoint":["sh","-c"],"cmd":["echo cmd > $OUT"]}}`, "cmd\n"},
		"a file by variable": {`{` + base + `,` + file + `,"processes":[{"cmd":["sh","-c","cat $EVENTS_PATH > $OUT"]}]}`, `[{"a":1}]`},
		"a file by word":     {`{` + base + `,` + file + `,"init":{"exec":["sh","-c","cat \"$0\" > $OUT","/tmp/events.json"]}}`, `[{"a":1}]`},
		"one of several ends well": {`{` + base + `,"processes":[{"cmd":["sh","-c","trap 'echo ended >> $OUT; exit' TERM; echo begun > $OUT; while :; do sleep 0.05; done"]},` +
			`{"env":{"WORD":"it's"},"cmd":["sh","-c","until grep -q begun $OUT; do sleep 0.05; done; echo $WORD >> $OUT"]}]}`, "begun\nit's\nended\n"},
		"the last of several fails": {`{` + base + `,"processes":[{"cmd":["sh","-c","exit 3"]},{"cmd":["sh","-c","sleep 0.2; echo last > $OUT; exit 4"]}]}`, "last\n"},
	} {
		if got := run(c.config); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	a := p.call("POST", machines, `{"config":{"image":"unknown:1"}}`)
	if a.status != 422 || !strings.Contains(a.text(), `no program of this computer stands for the image "unknown:1"`) {
		t.Errorf("an image that nothing stands for: got %d %s, want 422 and what to do", a.status, a.body)
	}
	if left, _ := filepath.Glob(filepath.Join(p.dir, "machines", "machines", "*")); len(left) != 0 {
		t.Errorf("left at the provider: %v", left)
	}
}

func TestMachinesOfThisComputerAreEnteredListedAndSuspended(t *testing.T) {
	t.Parallel()
	p := newProcess(t)
	p.launch("")
	m := p.started(`{"image":"app:1","env":{"COLOR":"blue"}}`)
	path := machines + "/" + m.ID
	var exec struct {
		Code   int `json:"exit_code"`
		Stdout string
	}
	p.want(200, &exec, "POST", path+"/exec", `{"command":["sh","-c","echo $COLOR; exit 5"]}`)
	if exec.Code != 5 || exec.Stdout != "blue\n" {
		t.Errorf("exec: got %+v, want status 5 and the machine's own environment", exec)
	}
	var list []struct {
		PID     int
		Command string
	}
	p.want(200, &list, "GET", path+"/ps", nil)
	found := false
	for _, l := range list {
		found = found || strings.Contains(l.Command, "while :")
		if strings.Contains(l.Command, "flyapi.test") {
			t.Errorf("ps lists %+v, which is not the machine's", l)
		}
	}
	if !found {
		t.Errorf("ps: got %+v, want the machine's program among them", list)
	}
	p.want(200, nil, "POST", path+"/suspend", nil)
	p.wait(m.ID, "suspended")
	p.want(200, nil, "POST", path+"/start", nil)
	p.wait(m.ID, "started")
	if p.starts() != 1 {
		t.Errorf("starts: got %d, want 1: what was suspended goes on", p.starts())
	}
	p.want(200, nil, "POST", path+"/signal", `{"signal":"SIGTERM"}`)
	p.wait(m.ID, "stopped")
}
