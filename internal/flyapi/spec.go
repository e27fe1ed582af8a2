package flyapi

import (
	"maps"
	"strconv"

	"github.com/dayfly-run/dayfly/machine"
)

// spec returns what the provider is asked for. The same state always gives the same spec.
func (s *Service) spec(now *state) (*machine.Spec, error) {
	r, c := now.record, now.config
	app := s.appByID(r.App)
	spec := &machine.Spec{
		Name:     r.machineName(),
		Owner:    s.owner,
		Labels:   map[string]string{"fly_machine": r.ID, "fly_launch": strconv.Itoa(r.Launch), "fly_name": r.Name},
		Lifetime: s.Lifetime,
		Files:    c.files,
		Size:     c.guest.size(s.MaxCPUs, s.MaxMemoryMB),
	}
	appName := ""
	if app != nil {
		appName = app.Name
		spec.Labels["fly_app"] = app.Name
	}
	run := programOf(c)
	spec.User = run.user
	spec.Env = maps.Clone(c.Env)
	if spec.Env == nil {
		spec.Env = map[string]string{}
	}
	maps.Copy(spec.Env, run.env)
	for name, value := range map[string]string{
		"FLY_APP_NAME":        appName,
		"FLY_MACHINE_ID":      r.ID,
		"FLY_ALLOC_ID":        r.ID,
		"FLY_REGION":          r.Region,
		"FLY_PUBLIC_IP":       privateAddress(r.ID),
		"FLY_PRIVATE_IP":      privateAddress(r.ID),
		"FLY_IMAGE_REF":       c.Image,
		"FLY_MACHINE_VERSION": r.Instance,
		"FLY_PROCESS_GROUP":   processGroup(r),
		"FLY_VM_MEMORY_MB":    strconv.Itoa(spec.Size.MemoryMB),
		"PRIMARY_REGION":      s.Regions[0],
	} {
		if _, given := c.Env[name]; given && name == "PRIMARY_REGION" {
			continue // the one of these that apps set themselves
		}
		spec.Env[name] = value
	}
	if s.Images != nil {
		return s.Images.apply(spec, c.Image, run)
	}
	spec.Image, spec.Entrypoint, spec.Command = c.Image, run.entrypoint, run.command
	return spec, nil
}

// processGroup is the name that flyctl gives groups of machines by, or Fly's own for those without.
func processGroup(r *record) string {
	if group := r.Metadata["fly_process_group"]; group != "" {
		return group
	}
	return "app"
}
