package object

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"

	"get.podrun.dev/podrun/pod"
)

// merge is the three-way merge of an apply, on decoded JSON: live with what
// want says, without what before said and want does not. Lists are taken as a
// whole.
func merge(before, want, live map[string]any) map[string]any {
	out := maps.Clone(live)
	if out == nil {
		out = map[string]any{}
	}
	for key, was := range before {
		if _, still := want[key]; still {
			continue
		}
		was, isMap := was.(map[string]any)
		is, alsoMap := out[key].(map[string]any)
		if !isMap || !alsoMap {
			delete(out, key)
			continue
		}
		// What others put beside it stays.
		if rest := merge(was, nil, is); len(rest) > 0 {
			out[key] = rest
		} else {
			delete(out, key)
		}
	}
	for key, value := range want {
		wanted, isMap := value.(map[string]any)
		is, alsoMap := live[key].(map[string]any)
		if !isMap || !alsoMap {
			out[key] = value
			continue
		}
		was, _ := before[key].(map[string]any)
		out[key] = merge(was, wanted, is)
	}
	return out
}

// mergePatch applies a JSON merge patch: null removes, objects are merged, all
// else is set.
func mergePatch(target, patch map[string]any) map[string]any {
	out := maps.Clone(target)
	if out == nil {
		out = map[string]any{}
	}
	for key, value := range patch {
		switch v := value.(type) {
		case nil:
			delete(out, key)
		case map[string]any:
			is, _ := out[key].(map[string]any)
			out[key] = mergePatch(is, v)
		default:
			out[key] = value
		}
	}
	return out
}

func toMap(v any) (map[string]any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return decodeMap(data)
}

// decodeMap keeps numbers as they are written.
func decodeMap(data []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, errors.New("not a JSON object")
	}
	return m, nil
}

func fromMap(kind *pod.Kind, m map[string]any) (pod.Value, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return kind.Decode(data)
}
