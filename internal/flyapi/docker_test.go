package flyapi_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/internal/dockertest"
	"github.com/dayfly-run/dayfly/internal/flyapi"
	"github.com/dayfly-run/dayfly/machine/docker"
)

// inContainers returns a service whose machines are containers, and an image for them.
func inContainers(t *testing.T) (*house, string) {
	t.Helper()
	engine := dockertest.Shared(t)
	image := engine.Image(t, "flyapi-test/bb:1", `CMD ["sh","-c","echo image; exit 0"]`)
	// A network is a third of what a container costs, and nothing here needs one.
	provider := docker.New(docker.Program{File: dockertest.Agent(t)}, &docker.Options{Host: engine.Host, Network: "none"})
	t.Cleanup(func() {
		if err := provider.Close(); err != nil {
			t.Errorf("closing the provider: %v", err)
		}
	})
	h := open(t, func(o *flyapi.Options) { o.Provider = provider })
	t.Cleanup(func() {
		var list []shown
		h.want(200, &list, "GET", machines, nil)
		for _, m := range list {
			h.want(200, nil, "DELETE", machines+"/"+m.ID+"?force=true", nil)
			h.wait(m.ID, "destroyed")
		}
	})
	return h, image
}

func TestImagesRunInContainersAsTheyAre(t *testing.T) {
	t.Parallel()
	h, image := inContainers(t)
	m := h.create(fmt.Sprintf(`{"image":%q}`, image))
	h.wait(m.ID, "stopped") // its own command has ended well
	exit, _ := h.get(m.ID).Events[0].Request["exit_event"].(map[string]any)
	if exit["guest_exit_code"] != 0.0 || exit["requested_stop"] != false {
		t.Errorf("the exit of the image's own command: got %v, want status 0", exit)
	}
}

func TestAContainerIsGivenItsFilesIsEnteredStoppedAndStartedAnew(t *testing.T) {
	t.Parallel()
	h, image := inContainers(t)
	file := base64.StdEncoding.EncodeToString([]byte("from the file"))
	m := h.started(fmt.Sprintf(`{"image":%q,"env":{"COLOR":"blue"},"files":[{"guest_path":"/etc/app/conf","raw_value":%q}],`+
		`"init":{"exec":["sh","-c","trap 'exit 7' TERM; while :; do sleep 0.1; done"]},"stop_config":{"signal":"SIGTERM","timeout":"20s"},"restart":{"policy":"no"}}`, image, file))
	path := machines + "/" + m.ID
	exec := func(command string) string {
		t.Helper()
		var out struct{ Stdout string }
		h.want(200, &out, "POST", path+"/exec", map[string]any{"command": []string{"sh", "-c", command}})
		return out.Stdout
	}
	if got := exec("cat /etc/app/conf; echo; echo $COLOR $FLY_MACHINE_ID; echo left > /left"); got != "from the file\nblue "+m.ID+"\n" {
		t.Errorf("from inside: got %q, want the file and the environment", got)
	}
	if got := h.get(m.ID).ImageRef["digest"]; !strings.HasPrefix(fmt.Sprint(got), "sha256:") {
		t.Errorf("image_ref.digest: got %v, want what the engine made of it", got)
	}
	var list []struct{ Command string }
	h.want(200, &list, "GET", path+"/ps", nil)
	if !strings.Contains(fmt.Sprint(list), "trap") {
		t.Errorf("ps: got %+v, want the machine's program among them", list)
	}
	h.want(200, nil, "POST", path+"/suspend", nil)
	h.wait(m.ID, "suspended")
	h.want(200, nil, "POST", path+"/start", nil)
	h.wait(m.ID, "started")
	h.want(200, nil, "POST", path+"/stop", nil)
	h.wait(m.ID, "stopped")
	exit, _ := h.get(m.ID).Events[0].Request["exit_event"].(map[string]any)
	if exit["exit_code"] != 7.0 || exit["requested_stop"] != true {
		t.Errorf("the exit: got %v, want the 7 that its trap exits with", exit)
	}
	h.want(200, nil, "POST", path+"/start", nil)
	h.wait(m.ID, "started")
	if got := exec("cat /left 2>&1 || echo clean"); !strings.Contains(got, "clean") {
		t.Errorf("after a start: got %q, want a clean root filesystem", got)
	}
}
