package flyapi

import (
	"maps"
	"net/http"
)

// metadataRequest is the body of a change of several keys. A null value removes a key.
type metadataRequest struct {
	Metadata       map[string]*string `json:"metadata"`
	MachineVersion string             `json:"machine_version"`
}

func (s *Service) getMetadata(r *request) (int, any, error) {
	metadata := r.entry.record().Metadata
	if metadata == nil {
		metadata = map[string]string{}
	}
	return http.StatusOK, metadata, nil
}

func (s *Service) getMetadataKey(r *request) (int, any, error) {
	value, ok := r.entry.record().Metadata[r.PathValue("key")]
	if !ok {
		return 0, nil, refuse(http.StatusNotFound, "not_found: metadata key not found")
	}
	return http.StatusOK, map[string]string{"value": value}, nil
}

func (s *Service) putMetadata(r *request) (int, any, error)   { return s.writeMetadata(r, true) }
func (s *Service) patchMetadata(r *request) (int, any, error) { return s.writeMetadata(r, false) }

// writeMetadata merges keys into a machine's metadata, or replaces all of it. Neither makes a new version.
func (s *Service) writeMetadata(r *request, replace bool) (int, any, error) {
	wanted := &metadataRequest{}
	if err := r.read(maxMachineBody, wanted); err != nil {
		return 0, nil, err
	}
	return s.editMetadata(r, wanted.MachineVersion, replace, wanted.Metadata)
}

func (s *Service) setMetadataKey(r *request) (int, any, error) {
	var wanted struct {
		Value *string `json:"value"`
	}
	if err := r.read(maxSmallBody, &wanted); err != nil {
		return 0, nil, err
	}
	return s.editMetadata(r, "", false, map[string]*string{r.PathValue("key"): wanted.Value})
}

func (s *Service) deleteMetadataKey(r *request) (int, any, error) {
	return s.editMetadata(r, "", false, map[string]*string{r.PathValue("key"): nil})
}

func (s *Service) editMetadata(r *request, version string, replace bool, edits map[string]*string) (int, any, error) {
	_, err := s.asked(r, "metadata", func(m *record) error {
		if m.State == destroyed {
			return noMachine()
		}
		if version != "" && version != m.Instance {
			return precondition("machine version mismatch: machine_version %.40s is not %s", version, m.Instance)
		}
		before := m.Metadata
		m.Metadata = map[string]string{}
		if !replace {
			maps.Copy(m.Metadata, before)
		}
		for key, value := range edits {
			if value == nil || *value == "" {
				delete(m.Metadata, key)
			} else {
				m.Metadata[key] = *value
			}
		}
		if maps.Equal(before, m.Metadata) {
			return errUnchanged
		}
		return checkMetadata(m.Metadata)
	})
	if err != nil && !isUnchanged(err) {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, nil
}
