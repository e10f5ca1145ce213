-- Demo data of the enrichment app, with accounts, contacts and settings of two workspaces. The keys
-- that begin with test-key- are not secrets, because only the offline substitute for Apollo accepts
-- them. The demo replaces the keys that begin with test-key- by encrypted keys.

insert into public.workspace_settings (workspace_id, apollo_api_key_encrypted, apollo_api_key_last4)
values
('11111111-1111-4111-8111-111111111111', 'test-key-acme-0001', '0001'),
('22222222-2222-4222-8222-222222222222', 'test-key-globex-0002', '0002')
on conflict (workspace_id) do nothing;

insert into public.accounts (id, workspace_id, name, domain, industry, city)
values
('ac000000-0000-4000-8000-000000000001', '11111111-1111-4111-8111-111111111111', 'Initech',
  'initech.example', null, null),
('ac000000-0000-4000-8000-000000000002', '11111111-1111-4111-8111-111111111111', 'Umbrella',
  'umbrella.example', null, null),
('ac000000-0000-4000-8000-000000000003', '11111111-1111-4111-8111-111111111111',
  'Stark Industries', 'stark.example', null, 'Malibu'),
('ac000000-0000-4000-8000-000000000004', '11111111-1111-4111-8111-111111111111',
  'Wayne Enterprises', 'wayne.example', null, null),
('ac000000-0000-4000-8000-000000000005', '11111111-1111-4111-8111-111111111111', 'Hooli',
  'hooli.example', 'Internet', null),
('ac000000-0000-4000-8000-000000000006', '11111111-1111-4111-8111-111111111111', 'Pied Piper',
  'piedpiper.example', null, null),
('ac000000-0000-4000-8000-000000000007', '11111111-1111-4111-8111-111111111111', 'Vandelay',
  'vandelay.example', null, null),
('ac000000-0000-4000-8000-000000000008', '11111111-1111-4111-8111-111111111111', 'Unknown Ltd',
  'unknown.invalid', null, null),
('9c000000-0000-4000-8000-000000000001', '22222222-2222-4222-8222-222222222222', 'Soylent',
  'soylent.example', null, null),
('9c000000-0000-4000-8000-000000000002', '22222222-2222-4222-8222-222222222222', 'Cyberdyne',
  'cyberdyne.example', null, null)
on conflict (id) do nothing;

insert into public.contacts (id, workspace_id, account_id, name, email)
values
('cc000000-0000-4000-8000-000000000001', '11111111-1111-4111-8111-111111111111',
  'ac000000-0000-4000-8000-000000000001', 'Peter Gibbons', 'peter@initech.example'),
('cc000000-0000-4000-8000-000000000002', '11111111-1111-4111-8111-111111111111',
  'ac000000-0000-4000-8000-000000000006', 'Richard Hendricks', 'richard@piedpiper.example'),
('dc000000-0000-4000-8000-000000000001', '22222222-2222-4222-8222-222222222222',
  '9c000000-0000-4000-8000-000000000001', 'Robert Thorn', 'robert@soylent.example')
on conflict (id) do nothing;
