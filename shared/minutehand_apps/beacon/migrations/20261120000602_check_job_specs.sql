-- What a job spec and an output must be: the schemas that the API publishes, and what no schema can say.
-- A test holds the schemas here equal to those of the models in models.py.

create function beacon.jobspec_schema() returns jsonb
language sql immutable
set search_path = ''
as $$
  select '{
    "$defs": {
      "Benchmark": {
        "additionalProperties": true,
        "properties": {"name": {"maxLength": 200, "minLength": 1, "pattern": "[^ \\t\\n\\r]", "type": "string"}},
        "required": ["name"], "type": "object"
      },
      "Constraints": {
        "additionalProperties": false,
        "properties": {
          "regions": {
            "items": {"maxLength": 63, "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$", "type": "string"}, "maxItems": 50,
            "minItems": 1, "type": "array"
          },
          "min_regions": {"maximum": 50, "minimum": 1, "type": "integer"},
          "timeout": {"anyOf": [{"maximum": 86400, "minimum": 1, "type": "integer"}, {"type": "null"}]},
          "stragglers": {"enum": ["keep", "cancel"], "type": "string"}
        },
        "required": ["regions", "min_regions"], "type": "object"
      },
      "ModelRef": {
        "additionalProperties": true,
        "properties": {"id": {"maxLength": 200, "pattern": "^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", "type": "string"}},
        "required": ["id"], "type": "object"
      },
      "Question": {
        "additionalProperties": false,
        "properties": {
          "id": {"maxLength": 200, "minLength": 1, "pattern": "[^ \\t\\n\\r]", "type": "string"},
          "question": {"maxLength": 10000, "minLength": 1, "pattern": "[^ \\t\\n\\r]", "type": "string"},
          "category": {"maxLength": 200, "minLength": 1, "pattern": "[^ \\t\\n\\r]", "type": "string"}
        },
        "required": ["id", "question", "category"], "type": "object"
      }
    },
    "additionalProperties": false,
    "properties": {
      "jobspec_id": {"maxLength": 200, "pattern": "^[A-Za-z0-9][A-Za-z0-9._:-]*$", "type": "string"},
      "version": {
        "anyOf": [
          {"maxLength": 64, "pattern": "^[!-~]+$", "type": "string"},
          {"maximum": 9007199254740991, "minimum": 0, "type": "integer"}
        ]
      },
      "benchmark": {"$ref": "#/$defs/Benchmark"}, "constraints": {"$ref": "#/$defs/Constraints"},
      "questions": {
        "items": {
          "anyOf": [
            {"maxLength": 10000, "minLength": 1, "pattern": "[^ \\t\\n\\r]", "type": "string"},
            {"$ref": "#/$defs/Question"}
          ]
        },
        "maxItems": 500, "minItems": 1, "type": "array"
      },
      "models": {
        "anyOf": [
          {
            "items": {
              "anyOf": [
                {"maxLength": 200, "pattern": "^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", "type": "string"},
                {"$ref": "#/$defs/ModelRef"}
              ]
            },
            "maxItems": 20, "minItems": 1, "type": "array"
          },
          {"type": "null"}
        ]
      },
      "metadata": {"anyOf": [{"additionalProperties": true, "type": "object"}, {"type": "null"}]}
    },
    "required": ["jobspec_id", "version", "benchmark", "constraints", "questions"], "type": "object"
  }'::jsonb
$$;
comment on function beacon.jobspec_schema is
E'The JSON Schema jobspec, without titles and descriptions.\n\n'
'The whole one is published at /api/v1/schemas/jobspec.';

create function beacon.output_schema() returns jsonb
language sql immutable
set search_path = ''
as $$
  select '{
    "$defs": {
      "OutputData": {
        "additionalProperties": false,
        "properties": {
          "responses": {"items": {"$ref": "#/$defs/Response"}, "maxItems": 500, "minItems": 1, "type": "array"}
        },
        "required": ["responses"], "type": "object"
      },
      "Response": {
        "additionalProperties": false,
        "properties": {
          "question_id": {"maxLength": 200, "minLength": 1, "pattern": "[^ \\t\\n\\r]", "type": "string"},
          "question": {"maxLength": 10000, "minLength": 1, "pattern": "[^ \\t\\n\\r]", "type": "string"},
          "response": {"maxLength": 100000, "minLength": 1, "pattern": "[^ \\t\\n\\r]", "type": "string"},
          "category": {
            "anyOf": [
              {"maxLength": 200, "minLength": 1, "pattern": "[^ \\t\\n\\r]", "type": "string"},
              {"type": "null"}
            ]
          },
          "duration_ms": {"maximum": 86400000, "minimum": 0, "type": "integer"}
        },
        "required": ["question_id", "question", "response", "duration_ms"], "type": "object"
      }
    },
    "additionalProperties": false, "properties": {"data": {"$ref": "#/$defs/OutputData"}}, "required": ["data"],
    "type": "object"
  }'::jsonb
$$;
comment on function beacon.output_schema is
E'The JSON Schema output, without titles and descriptions.\n\n'
'The whole one is published at /api/v1/schemas/output.';

create function beacon.model_ids(p_spec jsonb) returns text[]
language sql immutable
set search_path = ''
as $$
  select coalesce(
    array_agg(case jsonb_typeof(m.value) when 'string' then m.value #>> '{}' else m.value ->> 'id' end
      order by m.ordinality),
    array['default'])
  from jsonb_array_elements(case jsonb_typeof(p_spec -> 'models') when 'array' then p_spec -> 'models' else '[]' end)
    with ordinality as m
$$;
comment on function beacon.model_ids is 'A spec''s models by id, in order; default where it names none.';

create function beacon.questions(p_spec jsonb) returns jsonb
language sql immutable
set search_path = ''
as $$
  select jsonb_agg(
    case jsonb_typeof(q.value)
      when 'string' then jsonb_build_object('question_id', 'q' || q.ordinality, 'question', q.value)
      else jsonb_build_object('question_id', q.value -> 'id', 'question', q.value -> 'question',
        'category', q.value -> 'category')
    end order by q.ordinality)
  from jsonb_array_elements(p_spec -> 'questions') with ordinality as q
$$;
comment on function beacon.questions is
'A spec''s questions as they are sent to providers: [{question_id, question, category?}], in order.';

create function beacon.spec_problem(p_spec jsonb) returns text
language plpgsql immutable
set search_path = ''
as $$
declare
  v_problem text := queue.schema_error(beacon.jobspec_schema(), p_spec);
  v_regions jsonb := p_spec #> '{constraints,regions}';
  v_models text[];
begin
  if v_problem is not null then
    return v_problem;
  end if;
  v_models := beacon.model_ids(p_spec);
  if (select count(distinct r.value) from jsonb_array_elements(v_regions) as r) < jsonb_array_length(v_regions) then
    return '$.constraints.regions must name each region once';
  elsif (p_spec #>> '{constraints,min_regions}')::numeric > jsonb_array_length(v_regions) then
    return '$.constraints.min_regions must be at most the number of regions';
  elsif (select count(distinct m) from unnest(v_models) as m) < cardinality(v_models) then
    return '$.models must name each model once';
  elsif (select count(distinct q.value ->> 'question_id') < count(*)
      from jsonb_array_elements(beacon.questions(p_spec)) as q) then
    return '$.questions must have different ids';
  elsif jsonb_array_length(v_regions) * cardinality(v_models) > 200 then
    return '$ must ask for at most 200 executions: regions times models';
  end if;
  return null;
end;
$$;
comment on function beacon.spec_problem is
'The first way in which a value is not a job spec, as a sentence; null when it is one.';

create function beacon.output_problem(p_output jsonb, p_spec jsonb) returns text
language plpgsql immutable
set search_path = ''
as $$
declare
  v_problem text := queue.schema_error(beacon.output_schema(), p_output);
begin
  if v_problem is not null then
    return v_problem;
  elsif beacon.questions(p_spec) is distinct from (
      select jsonb_agg(jsonb_strip_nulls(r.value - 'response' - 'duration_ms') order by r.ordinality)
      from jsonb_array_elements(p_output #> '{data,responses}') with ordinality as r) then
    return '$.data.responses must answer each question once, in order';
  end if;
  return null;
end;
$$;
comment on function beacon.output_problem is
E'The first way in which a value is not the output of a spec, as a sentence; null when it is one.';
