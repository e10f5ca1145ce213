"""Patterns of work with people and knowledge: events, software, research, campaigns, training.

Hours are rules of thumb for an ordinary case; see `patterns.py` for what each field means.
"""

# ruff: noqa: E501 - one work package, risk or cost a line reads as the table it is

from __future__ import annotations

from typing import Final

from minutehand_apps.plans.planning.patterns import Cost, Option, Pattern, Risk, Size, Task

EVENT: Final = Pattern(
    name="event", title="event", weight=2, lead="Event manager",
    words=("event", "conference", "festival", "party", "wedding", "concert", "exhibition", "fair", "workshop day", "reception", "ceremony", "organi[sz]e", "congress", "gala", "tournament", "open day"),
    sizes=(
        Size("guests", "guest", ("guest", "attendee", "visitor", "participant", "person", "people", "child", "player", "delegate"), 50, "How many guests are expected?"),
        Size("days", "day", ("day",), 1, "How many days does it last?"),
    ),
    phases=(
        ("Concept", (
            Task("concept", "Agree on purpose, audience and format", "Event manager", 6, "A one-page concept",
                 ("Say what guests shall take home.", "Fix format, date and number of guests."), crew=2),
            Task("program", "Draft the programme", "Programme lead", 8, "A programme with times", ("List the parts and who leads them.", "Put times to them, with breaks."), per=(("days", 6),), after=("concept",)),
        )),
        ("Organise", (
            Task("venue", "Find and book the venue", "Event manager", 12, "A signed contract for the venue",
                 ("Visit three venues with the number of guests.", "Check access, exits and technology, then book."), after=("concept",), wait=3),
            Task("permits", "Clear permits, insurance and safety", "Event manager", 8, "Written permits and a safety plan", ("Ask the town what is needed.", "Write the safety plan for the venue."), after=("venue",), wait=10),
            Task("speakers", "Invite speakers or performers", "Programme lead", 8, "Confirmed speakers or performers", ("Invite with date, topic and fee.", "Confirm travel and equipment."), per=(("days", 6),), after=("program",), wait=5),
            Task("catering", "Choose and order the catering", "Event manager", 6, "A confirmed order", ("Ask three caterers with the number of guests.", "Order, with a vegetarian choice."), per=(("guests", 0.02),), near=10, after=("venue",)),
            Task("invite", "Invite guests and take registrations", "Communications", 8, "A list of registered guests", ("Send the invitations.", "Answer questions and keep the list."), per=(("guests", 0.08),), near=15, after=("venue", "program"), wait=10, crew=2),
            Task("material", "Prepare signs, badges and technology", "Helper", 6, "Everything is packed and tested", ("Print signs and badges.", "Test sound, light and screens."), per=(("guests", 0.04), ("days", 2)), near=3, after=("invite", "speakers", "catering", "permits"), crew=3),
        )),
        ("Run", (
            Task("setup", "Set up and rehearse", "Helper", 8, "A venue that is ready the evening before", ("Set up rooms, signs and technology.", "Rehearse the beginning and the changes."), per=(("guests", 0.03),), near=0, after=("material",), crew=8),
            Task("run", "Run the event", "Event manager", 0, "The event", ("Welcome guests and keep the times.", "Solve problems at one known desk."), per=(("days", 40),), after=("setup",), crew=5, pinned=True),
        )),
        ("Close", (
            Task("clear", "Take down and return everything", "Helper", 6, "An empty, clean venue", ("Take down and sort.", "Return what was hired."), per=(("guests", 0.02),), after=("run",), crew=6),
            Task("thank", "Thank, evaluate and settle the accounts", "Event manager", 8, "Accounts and a page of lessons", ("Thank speakers, helpers and guests.", "Collect feedback and close the accounts."), per=(("guests", 0.01),), after=("run",)),
        )),
    ),
    risks=(
        Risk("Fewer guests come than planned", 3, 3, "Watch registrations weekly; invite a second circle three weeks before.", "Communications"),
        Risk("A speaker or performer cancels", 3, 3, "Have a replacement for each main part of the programme.", "Programme lead"),
        Risk("Technology fails during the event", 2, 4, "Rehearse with the real equipment; bring spares for sound and screen.", "Helper"),
        Risk("A permit is missing on the day", 2, 5, "Ask the town as soon as the venue is booked.", "Event manager"),
        Risk("The weather prevents what is planned outdoors", 2, 3, "Reserve an indoor room for the same hours.", "Event manager"),
    ),
    costs=(
        Cost("venue", "venue", ("venue", "hall", "room", "location", "tent")),
        Cost("catering", "catering", ("catering", "food", "meal", "lunch", "dinner", "drinks"), "guests"),
        Cost("speakers or performers", "speakers", ("speaker", "speakers", "band", "performer", "performers", "music")),
        Cost("technology and material", "material", ("technology", "sound", "badges", "printing", "flyers", "stage")),
    ),
    options=(
        Option("Book a venue that brings catering and technology", "One contract instead of three, and less to set up.", "time"),
        Option("Put the parts together yourselves", "Venue, catering and technology are chosen one by one.", "else"),
        Option("Use your own rooms and volunteers", "No rent, and helpers instead of a crew.", "money"),
    ),
    stakeholders=("Guests", "Speakers or performers", "The venue", "The town", "Sponsors, where there are any", "Helpers"),
    checks=("The rehearsal ran through with the real equipment.", "Permits and insurance are in writing.", "The number of guests is confirmed to the caterer a week before."),
)  # fmt: skip

SOFTWARE: Final = Pattern(
    name="software", title="software project", weight=2, lead="Product owner",
    words=("software", "app", "website", "web site", "api", "platform", "application", "web shop", "online shop", "portal", "dashboard", "database", "prototype", "integration", "migrate", "backend", "frontend", "chatbot"),
    sizes=(
        Size("features", "feature", ("screen", "feature", "page", "view", "form", "report", "endpoint", "function", "user story", "story"), 6, "How many screens or features does it have?"),
        Size("interfaces", "interface", ("integration", "interface", "connector", "import", "system"), 0, "How many other systems is it connected to?"),
    ),
    phases=(
        ("Discover", (
            Task("goals", "Agree on goals, users and limits", "Product owner", 8, "A page with goals and what is out of scope", ("Interview three users.", "Write goals that can be measured."), crew=2),
            Task("stories", "Write and order the requirements", "Product owner", 6, "Ordered requirements with acceptance criteria", ("Write one requirement for each feature.", "Order them by value."), per=(("features", 2), ("interfaces", 2)), after=("goals",), crew=2),
            Task("design", "Design screens and test them with users", "Designer", 8, "A design that users have tried", ("Sketch the main paths.", "Watch three users try them."), per=(("features", 4),), after=("goals",), crew=2),
            Task("architecture", "Decide on the architecture", "Developer", 12, "Written decisions and a skeleton that runs", ("Compare two ways for each open decision.", "Deploy an empty skeleton."), per=(("interfaces", 3),), after=("goals",), crew=2),
        )),
        ("Build", (
            Task("base", "Set up repository, tests and delivery", "Developer", 16, "Every change is tested and delivered", ("Set up repository and checks.", "Deliver to a test system on every change."), after=("architecture",)),
            Task("features", "Build the features", "Developer", 0, "Features that meet their criteria", ("Build in the order of value.", "Review and test each one before the next."), per=(("features", 24),), after=("stories", "design", "base"), crew=4),
            Task("interfaces", "Build the connections to other systems", "Developer", 0, "Connections that survive errors", ("Agree on the format with the other side.", "Test errors, limits and retries."), per=(("interfaces", 40),), after=("stories", "base"), crew=2),
        )),
        ("Release", (
            Task("test", "Test the whole with users", "Tester", 12, "A list of defects by severity", ("Try every path on the devices users have.", "Measure speed and security."), per=(("features", 4), ("interfaces", 6)), after=("features", "interfaces"), crew=3),
            Task("fix", "Correct what the tests found", "Developer", 8, "No open defect that blocks a user", ("Correct the severe ones first.", "Repeat the tests."), per=(("features", 4), ("interfaces", 4)), after=("test",), crew=4),
            Task("docs", "Write the instructions and train support", "Tester", 8, "Instructions that a new user can follow", ("Write for the most frequent tasks.", "Train those who answer questions."), per=(("features", 1),), after=("features",)),
            Task("release", "Release and watch", "Developer", 8, "The software is in use and watched", ("Release to a few users first.", "Watch errors and speed, then open it to all."), after=("fix", "docs")),
        )),
    ),
    risks=(
        Risk("Requirements grow while the software is built", 4, 4, "Change the order, not the date: each new requirement pushes one out.", "Product owner"),
        Risk("A connected system behaves differently from its description", 3, 4, "Build the riskiest connection first, against the real system.", "Developer"),
        Risk("Users do not accept the software", 2, 5, "Let three users try every second week.", "Designer"),
        Risk("Defects are found late", 3, 3, "Test with every change; keep a week for corrections.", "Tester"),
        Risk("Personal data is handled against the rules", 2, 5, "Write down which data is kept and why before building.", "Product owner"),
    ),
    costs=(
        Cost("hosting and licences", "base", ("hosting", "licence", "licences", "license", "licenses", "server", "servers", "subscription")),
        Cost("test devices", "test", ("device", "devices")),
    ),
    options=(
        Option("Build the most valuable third first and release it", "Users have something early; the rest follows in order of value.", "time"),
        Option("Build everything and release once", "One release, after all features are tested together.", "else"),
        Option("Adapt an existing product", "Licences instead of development, within what the product can do.", "money"),
    ),
    stakeholders=("Users", "The product owner", "Operations and support", "Owners of connected systems", "Data protection"),
    checks=("Every requirement has acceptance criteria and a test.", "Each change is reviewed by a second person.", "Restoring a backup was tried before the release."),
)  # fmt: skip

RESEARCH: Final = Pattern(
    name="research", title="research", weight=2, lead="Lead researcher",
    words=("research", "study", "survey", "investigat\\w+", "experiment", "interview", "analy[sz]e", "evaluat\\w+", "market analysis", "literature review", "thesis", "field work"),
    sizes=(
        Size("cases", "case", ("household", "interview", "participant", "respondent", "case", "sample", "site", "person", "people", "patient", "company", "visitor", "experiment", "family"), 20, "How many cases or interviews are to be covered?"),
    ),
    phases=(
        ("Design", (
            Task("question", "State the question and what would answer it", "Lead researcher", 8, "A question with measurable outcomes", ("Write the question in one sentence.", "Name what would prove it wrong."), crew=2),
            Task("review", "Read what is known", "Researcher", 40, "A review of ten to twenty sources", ("Search systematically and note the search.", "Summarise what is agreed and what is open."), after=("question",), crew=2),
            Task("method", "Design method and sample", "Lead researcher", 16, "A protocol with sample and instruments", ("Choose method and sample.", "Write the instruments."), after=("review",), crew=2),
            Task("ethics", "Get consent forms and approvals", "Lead researcher", 8, "Written approvals", ("Write the consent form.", "Submit to those who approve."), after=("method",), wait=10),
        )),
        ("Collect", (
            Task("pilot", "Run a pilot and correct the instruments", "Researcher", 8, "Corrected instruments", ("Try it on three cases.", "Correct what was misunderstood."), after=("method",), crew=2),
            Task("recruit", "Recruit participants or sites", "Researcher", 4, "Confirmed participants or sites", ("Invite with time and purpose.", "Confirm dates and keep a reserve."), per=(("cases", 0.5),), after=("ethics", "pilot"), crew=3),
            Task("collect", "Collect the data", "Researcher", 4, "Complete raw data", ("Collect by the protocol.", "Check each case for gaps the same day."), per=(("cases", 2.5),), after=("recruit",), crew=6),
        )),
        ("Analyse", (
            Task("clean", "Clean and code the data", "Researcher", 4, "A documented data set", ("Remove errors and note each rule.", "Have a tenth coded twice."), per=(("cases", 1),), after=("collect",), crew=4),
            Task("analyse", "Analyse and check the results", "Lead researcher", 24, "Results with their uncertainty", ("Run the analysis as planned.", "Have a second person repeat it."), per=(("cases", 0.2),), after=("clean",), crew=2),
        )),
        ("Publish", (
            Task("write", "Write the report", "Lead researcher", 40, "A report with method, results and limits", ("Write results before conclusions.", "State the limits."), after=("analyse",), crew=2),
            Task("discuss", "Discuss with those concerned and publish", "Lead researcher", 12, "The published report", ("Show it to participants and experts.", "Correct and publish with the data."), after=("write",), wait=5),
        )),
    ),
    risks=(
        Risk("Too few people take part", 4, 4, "Recruit a fifth more than needed; name a date at which the sample is changed.", "Researcher"),
        Risk("The approval takes longer than expected", 3, 4, "Submit as soon as the protocol is written; prepare the pilot meanwhile.", "Lead researcher"),
        Risk("Answers are incomplete or contradictory", 3, 3, "Check every case on the day it is collected.", "Researcher"),
        Risk("The result cannot be repeated", 2, 5, "Keep protocol, data and analysis together; have a second person repeat it.", "Lead researcher"),
    ),
    costs=(
        Cost("rewards for participants", "recruit", ("reward", "voucher", "incentive", "household", "participant", "respondent", "interview"), "cases"),
        Cost("travel", "collect", ("travel", "trip", "train")),
        Cost("laboratory and equipment", "collect", ("equipment", "laboratory", "lab", "kit", "kits")),
    ),
    options=(
        Option("Collect and analyse in parallel", "Cases are coded in the week in which they come in.", "time"),
        Option("Collect first, then analyse", "The analysis begins with the complete data.", "else"),
        Option("Use existing data where there is some", "Only what is missing is collected anew.", "money"),
    ),
    stakeholders=("Participants", "Those who use the results", "Funders", "The ethics board"),
    checks=("The protocol was written before the data was collected.", "A tenth of the data is coded twice.", "A second person has repeated the analysis."),
)  # fmt: skip

CAMPAIGN: Final = Pattern(
    name="campaign", title="campaign", weight=2, lead="Campaign manager",
    words=("campaign", "fundrais\\w+", "advertis\\w+", "promot\\w+", "marketing", "launch", "awareness", "petition", "recruitment drive", "publicity"),
    sizes=(
        Size("channels", "channel", ("channel", "platform", "newspaper", "station"), 3, "How many channels are to be used?"),
        Size("pieces", "piece", ("post", "poster", "advert", "ad", "video", "flyer", "newsletter", "letter", "leaflet", "banner", "article"), 10, "How many posts, posters or other pieces are to be made?"),
        Size("weeks", "week", ("week",), 4, "How many weeks does the campaign run?"),
    ),
    phases=(
        ("Plan", (
            Task("aim", "Fix aim, audience and measure", "Campaign manager", 8, "One aim with a number and a date", ("Say who shall do what by when.", "Choose how it is measured."), crew=2),
            Task("insight", "Learn what moves the audience", "Analyst", 12, "A page about the audience", ("Talk to ten people of the audience.", "Look at what others have tried."), after=("aim",), crew=2),
            Task("message", "Write the message and the plan of channels", "Campaign manager", 12, "A message and a calendar", ("Write the message in one sentence.", "Plan what appears where and when."), per=(("channels", 2),), after=("insight",)),
        )),
        ("Produce", (
            Task("design", "Design the look", "Designer", 16, "Templates for all pieces", ("Draw two directions and test them.", "Make templates."), after=("message",)),
            Task("produce", "Produce the pieces", "Designer", 0, "Approved pieces", ("Write and design each piece.", "Have each one checked and approved."), per=(("pieces", 4),), after=("design",), crew=3),
            Task("channels", "Prepare the channels", "Campaign manager", 4, "Accounts, bookings and links that work", ("Book space and dates.", "Test every link and form."), per=(("channels", 4),), after=("message",), crew=2),
        )),
        ("Run", (
            Task("start", "Start the campaign", "Campaign manager", 8, "Everything is live", ("Publish by the calendar.", "Inform supporters and the press."), after=("produce", "channels"), crew=2, pinned=False),
            Task("run", "Run and adjust it week by week", "Campaign manager", 0, "A weekly look at the numbers", ("Answer questions and comments daily.", "Move effort to what works."), per=(("weeks", 20),), after=("start",), share=0.5, spread=(1, 1)),
        )),
        ("Close", (
            Task("evaluate", "Measure, report and thank", "Analyst", 12, "A report with aim and result", ("Compare the result with the aim.", "Thank supporters and note lessons."), after=("run",)),
        )),
    ),
    risks=(
        Risk("The message does not reach the audience", 3, 4, "Test it with ten people before anything is produced.", "Analyst"),
        Risk("The campaign draws criticism", 2, 4, "Prepare answers to the five hardest questions.", "Campaign manager"),
        Risk("Approvals hold up the pieces", 3, 3, "Name one person who approves within a day.", "Campaign manager"),
        Risk("Results come too late to adjust", 3, 3, "Look at the numbers every week and decide the same day.", "Analyst"),
    ),
    costs=(
        Cost("paid space", "channels", ("advertising", "ads", "advert", "space", "channel"), "channels"),
        Cost("printing and production", "produce", ("printing", "print", "poster", "posters", "flyer", "flyers", "video", "leaflet", "leaflets"), "pieces"),
    ),
    options=(
        Option("Start with two channels and add more", "Something is public early, and what works gets more.", "time"),
        Option("Start on all channels on one day", "The message is everywhere at once.", "else"),
        Option("Work through supporters and the press", "Own voices instead of paid space.", "money"),
    ),
    stakeholders=("The audience", "Supporters", "The press", "Whoever approves the pieces"),
    checks=("Each piece is read by a second person.", "Every link and form was tried.", "The numbers are looked at every week."),
)  # fmt: skip

TRAINING: Final = Pattern(
    name="training", title="training", weight=2, lead="Training manager",
    words=("train", "training", "teach", "course", "onboard\\w*", "curriculum", "workshop", "workshops", "e-learning", "learn", "lessons"),
    sizes=(
        Size("people", "participant", ("participant", "person", "people", "employee", "nurse", "teacher", "student", "volunteer", "staff", "colleague", "manager", "engineer", "driver", "member", "trainee", "apprentice", "user", "librarian"), 12, "How many people are to be trained?"),
        Size("days", "day", ("day",), 1, "How many days does the training last for each person?"),
        Size("groups", "group", ("group", "session", "class"), 0, "How many groups are there?"),
    ),
    phases=(
        ("Design", (
            Task("needs", "Find out what people must be able to do", "Training manager", 8, "Learning goals that can be tested", ("Watch the work and ask those who do it.", "Write goals as things people can do."), crew=2),
            Task("outline", "Design the course", "Trainer", 8, "A plan with exercises and times", ("Choose exercises for each goal.", "Plan times and breaks."), per=(("days", 8),), after=("needs",)),
            Task("material", "Make the material", "Trainer", 4, "Slides, exercises and a handbook", ("Write exercises from real work.", "Make a handbook of two pages for each topic."), per=(("days", 24),), after=("outline",), crew=3),
            Task("pilot", "Try it with one group and correct it", "Trainer", 4, "Corrected material", ("Teach one small group.", "Correct what did not work."), per=(("days", 10),), after=("material",), crew=2),
        )),
        ("Organise", (
            Task("schedule", "Fix groups, dates and rooms", "Training manager", 4, "Groups with dates and rooms", ("Make groups that keep the work running.", "Book rooms and equipment."), per=(("people", 0.05), ("groups", 0.5)), after=("needs",)),
            Task("invite", "Invite and prepare participants", "Training manager", 2, "Confirmed participants", ("Invite with goals and dates.", "Send what is to be read before."), per=(("people", 0.05),), after=("schedule",), wait=5),
        )),
        ("Teach", (
            Task("teach", "Teach all groups", "Trainer", 0, "Everybody has been taught", ("Teach by the plan.", "Note questions and improve the material."), per=(("sessions", 10),), after=("pilot", "invite"), crew=8, spread=(0.9, 1.3)),
            Task("test", "Test what was learned and repeat where needed", "Trainer", 2, "A test result for everybody", ("Have everybody do a task of their own work.", "Repeat with those who need it."), per=(("people", 0.25),), after=("teach",), crew=4),
        )),
        ("Close", (
            Task("evaluate", "Evaluate and hand over the material", "Training manager", 8, "A report and maintained material", ("Ask again after four weeks at work.", "Name who keeps the material up to date."), after=("test",)),
        )),
    ),
    risks=(
        Risk("People cannot be released from their work", 4, 4, "Fix dates with their managers; keep two spare dates.", "Training manager"),
        Risk("A trainer is ill", 3, 3, "Have two people for each topic.", "Training manager"),
        Risk("What was learned is not used at work", 3, 4, "Practise with real work, and ask again after four weeks.", "Trainer"),
        Risk("Rooms or equipment fail", 2, 3, "Test the room the day before; have the material on paper.", "Trainer"),
    ),
    costs=(
        Cost("rooms", "schedule", ("room", "rooms", "venue")),
        Cost("material", "material", ("material", "materials", "handbook", "handbooks", "licence", "licences", "printing", "participant", "nurse", "person"), "people"),
        Cost("travel", "teach", ("travel",)),
    ),
    options=(
        Option("Teach several groups side by side", "More trainers teach at the same time.", "time"),
        Option("Teach one group after the other", "The material gets better with each group.", "else"),
        Option("Train a few who then teach the others", "Fewer paid trainers; the knowledge stays in the house.", "money"),
    ),
    stakeholders=("Participants", "Their managers", "Trainers", "Whoever keeps the material up to date"),
    checks=("Every learning goal has an exercise and a test.", "One group has tried the material before the others.", "Results are asked for again after four weeks."),
)  # fmt: skip

GENERAL: Final = Pattern(
    name="general", title="project of no bundled kind", lead="Project lead",
    words=(),
    sizes=(),
    phases=(
        ("Prepare", (
            Task("brief", "Agree on the result and how it is accepted", "Project lead", 4, "A page that says what is delivered and who accepts it", ("Write the result in one sentence.", "Agree on who accepts it and by what."), crew=2),
            Task("means", "Clear people, material and permissions", "Project lead", 4, "Everything needed is at hand", ("List what is needed.", "Get it or order it."), after=("brief",)),
        )),
        ("Do", (
            Task("work", "Do the work itself", "Team", 0, "The agreed result", ("Begin with the riskiest part.", "Show a first result early."), after=("means",), crew=4, spread=(0.8, 1.3),
                 unknown="how many hours the work itself takes, for example from somebody who has done it before"),
        )),
        ("Finish", (
            Task("check", "Check the result and correct it", "Project lead", 4, "A result that meets its criteria", ("Compare with the agreed page.", "Correct what differs."), after=("work",), crew=2),
            Task("close", "Hand over and close", "Project lead", 2, "A signed hand-over", ("Hand over with what is needed to use it.", "Note what was learned."), after=("check",)),
        )),
    ),
    risks=(
        Risk("The result is understood differently by those involved", 3, 4, "Agree on one page before the work begins.", "Project lead"),
        Risk("The work takes longer than hoped", 3, 3, "Do the riskiest part first and compare after a quarter of the work.", "Project lead"),
        Risk("Somebody who is needed has no time", 3, 3, "Get a yes with hours and dates from each person.", "Project lead"),
    ),
    costs=(),
    options=(
        Option("Begin with a first version and improve it", "Something can be used early.", "time"),
        Option("Finish each part before the next", "One step follows the other.", "else"),
        Option("Do only what is needed for the result", "Everything else is left for later.", "money"),
    ),
    stakeholders=("Whoever asked for it", "Whoever uses the result"),
    checks=("The result was compared with the agreed page.",),
)  # fmt: skip

KINDS: Final = (SOFTWARE, TRAINING, EVENT, RESEARCH, CAMPAIGN)
