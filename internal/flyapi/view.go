package flyapi

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
)

// machineView is a machine as it is shown.
type machineView struct {
	ID         string                     `json:"id"`
	Name       string                     `json:"name"`
	State      string                     `json:"state"`
	Region     string                     `json:"region"`
	InstanceID string                     `json:"instance_id"`
	Version    string                     `json:"version"`
	PrivateIP  string                     `json:"private_ip"`
	CreatedAt  time.Time                  `json:"created_at"`
	UpdatedAt  time.Time                  `json:"updated_at"`
	Config     map[string]json.RawMessage `json:"config,omitempty"`
	ImageRef   imageRef                   `json:"image_ref"`
	Events     []event                    `json:"events,omitempty"`
	Checks     []checkView                `json:"checks,omitempty"`
	HostStatus string                     `json:"host_status"`
	Cordoned   bool                       `json:"cordoned"`
	Nonce      string                     `json:"nonce,omitempty"`
	Lease      *lease                     `json:"lease,omitempty"`
}

// imageRef is an image taken apart. All of it are texts, because a client of Fly's SDK refuses a machine where one is
// missing, after it has been created.
type imageRef struct {
	Registry   string            `json:"registry"`
	Repository string            `json:"repository"`
	Tag        string            `json:"tag"`
	Digest     string            `json:"digest"`
	Labels     map[string]string `json:"labels"`
}

// checkView is a health check. Checks are not run here, so each is as a check that has not reported.
type checkView struct {
	Name      string    `json:"name"`
	Status    string    `json:"status"`
	Output    string    `json:"output"`
	UpdatedAt time.Time `json:"updated_at"`
}

// view shows a machine.
func view(now *state) *machineView {
	r := now.record
	v := &machineView{
		ID: r.ID, Name: r.Name, State: r.State, Region: r.Region, InstanceID: r.Instance, Version: r.Instance,
		PrivateIP: privateAddress(r.ID), CreatedAt: r.Created, UpdatedAt: r.Updated,
		Config: maps.Clone(now.config.echo), ImageRef: refOf(now.config.Image, r.Image), Events: newestFirst(r.Events),
		HostStatus: "ok", Cordoned: r.Cordoned,
	}
	if len(r.Metadata) > 0 {
		if metadata, err := json.Marshal(r.Metadata); err == nil { // texts can always be
			v.Config["metadata"] = metadata
		}
	}
	var checks map[string]json.RawMessage
	if json.Unmarshal(now.config.echo["checks"], &checks) == nil {
		for _, name := range slices.Sorted(maps.Keys(checks)) {
			v.Checks = append(v.Checks, checkView{Name: name, Status: "warning", Output: "checks are not run here", UpdatedAt: r.Updated})
		}
	}
	return v
}

// summarize leaves out what a summary does.
func (v *machineView) summarize() {
	v.Events, v.Checks = nil, nil
	v.Config = map[string]json.RawMessage{"image": v.Config["image"], "guest": v.Config["guest"], "metadata": v.Config["metadata"]}
	if v.Config["metadata"] == nil {
		delete(v.Config, "metadata")
	}
}

func newestFirst(events []event) []event {
	shown := slices.Clone(events)
	slices.Reverse(shown)
	return shown
}

// refOf takes an image apart. resolved is the reference that the provider made of it, with its digest, or "".
func refOf(asked, resolved string) imageRef {
	ref := imageRef{Labels: map[string]string{}}
	name, digest, _ := strings.Cut(asked, "@")
	if _, found, ok := strings.Cut(resolved, "@"); ok && digest == "" {
		digest = found
	}
	ref.Digest = digest
	if slash, colon := strings.LastIndex(name, "/"), strings.LastIndex(name, ":"); colon > slash {
		name, ref.Tag = name[:colon], name[colon+1:]
	} else {
		ref.Tag = "latest"
	}
	first, rest, found := strings.Cut(name, "/")
	switch {
	case found && (strings.ContainsAny(first, ".:") || first == "localhost"):
		ref.Registry, ref.Repository = first, rest
	case found:
		ref.Registry, ref.Repository = "docker.io", name
	default:
		ref.Registry, ref.Repository = "docker.io", "library/"+name
	}
	return ref
}
