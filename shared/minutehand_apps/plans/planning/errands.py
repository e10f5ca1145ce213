"""Patterns of hands-on work: painting, renovating, building, moving, buying.

Hours are rules of thumb for an ordinary case; see `patterns.py` for what each field means.
"""

# ruff: noqa: E501 - one work package, risk or cost a line reads as the table it is

from __future__ import annotations

from typing import Final

from minutehand_apps.plans.planning.patterns import Cost, Option, Pattern, Risk, Size, Task

PAINT: Final = Pattern(
    name="painting", title="painting and small repairs", weight=2, one_size=True, lead="Householder",
    words=("paint(?:ing)?", "repaint", "wallpaper", "varnish", "whitewash"),
    sizes=(
        Size("walls", "wall", ("wall", "fence", "door", "ceiling"), 4, "How many walls are to be painted?"),
        Size("rooms", "room", ("room", "bedroom", "classroom", "office"), 0, "How many rooms are to be painted?"),
        Size("area", "square metre", ("square metre",), 0, "How large is the surface in square metres?"),
    ),
    phases=(
        ("Prepare", (
            Task("choose", "Choose the colour and buy the materials", "Householder", 1, "Paint, filler, tape and tools are at hand",
                 ("Measure the surface and note the colour.", "Buy paint, filler, masking tape and covers.")),
            Task("cover", "Clear, cover and mask", "Painter", 0.5, "Everything that stays clean is covered",
                 ("Move the furniture away.", "Cover the floor and mask the edges."),
                 per=(("walls", 0.25), ("rooms", 1), ("area", 0.02)), after=("choose",), crew=2),
            Task("fill", "Fill, sand and prime", "Painter", 0.25, "The surface is smooth and dry",
                 ("Fill holes and cracks.", "Sand the filler and prime bare spots."),
                 per=(("walls", 0.5), ("rooms", 2), ("area", 0.04)), after=("cover",), crew=2),
        )),
        ("Paint", (
            Task("first", "Apply the first coat", "Painter", 0, "The first coat is even",
                 ("Cut in the edges with a brush.", "Roll the surface from top to bottom."),
                 per=(("walls", 1), ("rooms", 3), ("area", 0.06)), after=("fill",), wait=0.5, crew=3),
            Task("second", "Apply the second coat", "Painter", 0, "The colour is even in daylight",
                 ("Check the first coat in daylight.", "Roll the second coat."),
                 per=(("walls", 0.75), ("rooms", 2.5), ("area", 0.05)), after=("first",), crew=3),
        )),
        ("Finish", (
            Task("clear", "Remove the masking and clean up", "Painter", 0.5, "The room can be used again",
                 ("Pull off the tape while the paint is soft.", "Clean the tools and put the furniture back."),
                 per=(("walls", 0.1), ("rooms", 0.5), ("area", 0.01)), after=("second",), crew=2),
        )),
    ),
    risks=(
        Risk("The first coat dries more slowly than expected", 3, 2, "Heat and air the room; move the second coat to the next day.", "Painter"),
        Risk("The old surface shows through", 2, 3, "Test a small area first; keep paint for a third coat.", "Painter"),
        Risk("Paint drips on floors or furniture", 2, 3, "Cover everything within two metres before opening the paint.", "Painter"),
    ),
    costs=(Cost("paint and materials", "choose", ("paint", "material", "materials", "roller"), "walls"),),
    options=(
        Option("Do it in one go", "Prepare one day and paint both coats the next.", "time"),
        Option("Do it wall by wall", "Finish one wall before the next, so that the room stays usable.", "else"),
    ),
    stakeholders=("The people who use the room",), checks=("The colour is even in daylight.", "Edges are straight and the floor is clean."),
)  # fmt: skip

RENOVATE: Final = Pattern(
    name="renovation", title="renovation", weight=2, one_size=True, lead="Site manager",
    words=("renovat\\w+", "refurbish\\w*", "remodel\\w*", "moderni[sz]e", "restor\\w+", "redecorat\\w+", "convert"),
    sizes=(
        Size("area", "square metre", ("square metre",), 20, "How large is the area in square metres?"),
        Size("rooms", "room", ("room", "bathroom", "kitchen", "bedroom", "classroom"), 0, "How many rooms are to be renovated?"),
    ),
    phases=(
        ("Design", (
            Task("survey", "Survey the rooms and record their condition", "Site manager", 4, "A plan with measurements and defects",
                 ("Measure the rooms.", "Open one spot of wall and floor to see what is behind."),
                 per=(("area", 0.1), ("rooms", 2))),
            Task("design", "Draw the design and choose the materials", "Designer", 8, "Drawings and a list of materials",
                 ("Draw floor plan, sockets and pipes.", "Choose surfaces and fittings with the owner."),
                 per=(("area", 0.3), ("rooms", 6)), after=("survey",)),
            Task("quotes", "Collect quotations and sign the contracts", "Site manager", 6, "Signed contracts with prices and dates",
                 ("Ask three firms for each trade.", "Compare the quotations line by line and sign."),
                 after=("design",), wait=5),
        )),
        ("Build", (
            Task("strip", "Protect the surroundings and strip out", "Builder", 4, "The rooms are empty down to the structure",
                 ("Cover the ways and seal off dust.", "Remove what is old and sort the waste."),
                 per=(("area", 0.8), ("rooms", 14)), after=("quotes",), crew=3),
            Task("install", "Install pipes and cables", "Electrician and plumber", 6, "Tested installations behind open walls",
                 ("Lay pipes and cables.", "Test pressure and circuits before the walls are closed."),
                 per=(("area", 0.8), ("rooms", 14)), after=("strip",), crew=2),
            Task("close", "Close walls and floors and let them dry", "Builder", 4, "Dry, level surfaces",
                 ("Close the walls and level the floor.", "Measure the moisture before going on."),
                 per=(("area", 0.9), ("rooms", 16)), after=("install",), wait=5, crew=3),
            Task("surface", "Tile, paint and lay the floor", "Tiler and painter", 4, "Finished surfaces",
                 ("Tile wet areas first.", "Paint, then lay the floor."),
                 per=(("area", 1.2), ("rooms", 20)), after=("close",), crew=3),
            Task("fit", "Fit furniture, appliances and lamps", "Fitter", 6, "Everything is in place and connected",
                 ("Fit furniture and appliances.", "Connect and test them."),
                 per=(("area", 0.4), ("rooms", 8)), after=("surface",), crew=2),
        )),
        ("Hand over", (
            Task("accept", "Inspect, correct defects and hand over", "Site manager", 4, "A signed record without open defects",
                 ("Walk through with the owner and list defects.", "Correct them and sign the record."),
                 per=(("area", 0.05), ("rooms", 1)), after=("fit",)),
        )),
    ),
    risks=(
        Risk("Hidden damage appears when walls are opened", 4, 4, "Open one spot during the survey; keep the reserve for this.", "Site manager"),
        Risk("A trade does not come on the agreed day", 3, 4, "Fix dates in the contract and confirm them a week before.", "Site manager"),
        Risk("Materials arrive late", 3, 3, "Order as soon as the design is signed; store on site.", "Designer"),
        Risk("Dust and noise lead to complaints", 3, 2, "Tell the neighbours the dates; seal off the work area.", "Builder"),
        Risk("Moisture delays the surfaces", 3, 3, "Measure before covering; hire dryers if needed.", "Builder"),
    ),
    costs=(
        Cost("materials", "surface", ("material", "materials", "tile", "tiles", "flooring", "floor"), "area"),
        Cost("fittings and appliances", "fit", ("appliance", "appliances", "furniture", "fittings", "fixtures", "window", "windows")),
        Cost("waste disposal", "strip", ("waste", "skip", "disposal")),
    ),
    options=(
        Option("Empty the rooms and renovate all at once", "All trades follow each other without a break.", "time"),
        Option("Renovate part by part", "One part stays usable while the next is worked on.", "else"),
        Option("Keep what is sound and replace the rest", "Less is stripped out, so materials and disposal cost less.", "money"),
    ),
    stakeholders=("The owner", "The people who live or work there", "Neighbours", "The building authority, where a permit is needed"),
    checks=("Pressure and circuit tests are recorded.", "Moisture is measured before surfaces are covered.", "The list of defects is empty at the hand-over."),
)  # fmt: skip

BUILD: Final = Pattern(
    name="building", title="building work", weight=1, lead="Site manager",
    words=("build a (?:house|shed|garage|school|playground|bridge|barn|workshop|hall|greenhouse|deck|fence|wall)", "construct\\w*", "house", "shed", "garage", "playground", "greenhouse", "extension"),
    sizes=(Size("area", "square metre", ("square metre",), 30, "How large is the floor area in square metres?"),),
    phases=(
        ("Design and permit", (
            Task("brief", "Agree on the brief with the owner", "Architect", 8, "A signed brief",
                 ("Collect what the building must do.", "Agree on size, standard and site.")),
            Task("design", "Draw the design and check the structure", "Architect", 16, "Drawings and structural calculation",
                 ("Draw plans and sections.", "Have the structure calculated."), per=(("area", 0.6),), after=("brief",), crew=2),
            Task("permit", "Apply for the permit", "Architect", 8, "The permit",
                 ("Fill in the application with all drawings.", "Answer the authority's questions."), after=("design",), wait=20),
            Task("tender", "Collect quotations and award the contracts", "Site manager", 12, "Signed contracts",
                 ("Ask three firms for each trade.", "Compare and sign."), after=("design",), wait=10),
        )),
        ("Structure", (
            Task("site", "Set up the site and dig the foundation", "Builder", 8, "Excavated and levelled ground",
                 ("Mark out the building.", "Dig and level the ground."), per=(("area", 0.5),), after=("permit", "tender"), crew=3),
            Task("base", "Pour the foundation", "Builder", 8, "A foundation that has cured",
                 ("Place formwork and reinforcement.", "Pour the concrete and let it cure."), per=(("area", 0.7),), after=("site",), wait=7, crew=4),
            Task("frame", "Raise walls and roof", "Carpenter", 16, "A weatherproof shell",
                 ("Raise the walls.", "Set and cover the roof."), per=(("area", 2.5),), after=("base",), crew=4),
        )),
        ("Fit out", (
            Task("openings", "Set windows and doors", "Carpenter", 4, "A closed shell", ("Set the frames.", "Seal all joints."), per=(("area", 0.4),), after=("frame",), crew=2),
            Task("services", "Install water, heating and electricity", "Electrician and plumber", 8, "Tested installations",
                 ("Lay pipes and cables.", "Test pressure and circuits."), per=(("area", 1.5),), after=("frame",), crew=3),
            Task("inside", "Insulate and finish the inside", "Builder", 8, "Finished rooms",
                 ("Insulate and close walls and ceilings.", "Lay floors and paint."), per=(("area", 2.5),), after=("openings", "services"), crew=4),
        )),
        ("Hand over", (
            Task("inspect", "Pass the inspections and correct defects", "Site manager", 8, "Inspection records without open defects",
                 ("Have the authority inspect.", "Correct what is found."), per=(("area", 0.1),), after=("inside",)),
            Task("handover", "Hand over the building and its documents", "Site manager", 4, "Keys and documents are with the owner",
                 ("Explain the installations.", "Hand over keys, plans and guarantees."), after=("inspect",)),
        )),
    ),
    risks=(
        Risk("The permit takes longer than expected", 3, 5, "Talk to the authority before applying; answer questions within two days.", "Architect"),
        Risk("The ground does not carry the load", 2, 5, "Have the soil examined before the design is finished.", "Architect"),
        Risk("Bad weather stops the work on the shell", 3, 3, "Plan the shell for the dry season; keep covers on site.", "Site manager"),
        Risk("Prices of materials rise before the order", 3, 4, "Fix prices in the contract and order early.", "Site manager"),
        Risk("Somebody is hurt on the site", 2, 5, "Brief everybody on safety and inspect the site daily.", "Site manager"),
    ),
    costs=(
        Cost("materials", "frame", ("material", "materials", "timber", "concrete", "brick"), "area"),
        Cost("permit fees", "permit", ("permit", "fee", "fees")),
        Cost("machine hire", "site", ("machine", "machines", "excavator", "crane", "hire")),
    ),
    options=(
        Option("Order a prefabricated building", "Walls come ready-made, so the shell stands within days.", "time"),
        Option("Build on site, trade by trade", "Each trade is awarded on its own and follows the one before.", "else"),
        Option("Build the shell now and fit out later", "The second half can wait until there is money for it.", "money"),
    ),
    stakeholders=("The owner", "Future users", "Neighbours", "The building authority", "Suppliers and trades"),
    checks=("The structural calculation is checked by a second engineer.", "Every installation has a test record.", "The authority's inspection has no open points."),
)  # fmt: skip

MOVE: Final = Pattern(
    name="move", title="move", weight=2, lead="Move coordinator",
    words=("move", "moving", "relocat\\w+", "removal", "flat", "apartment", "new (?:house|home|office)"),
    sizes=(
        Size("places", "workplace", ("person", "people", "workplace", "desk", "employee", "staff", "colleague"), 10, "How many people or workplaces move?"),
        Size("items", "item", ("item", "object", "box", "crate", "exhibit", "book", "machine"), 0, "How many items have to be carried?"),
        Size("rooms", "room", ("room",), 0, "How many rooms are to be moved?"),
    ),
    phases=(
        ("Prepare", (
            Task("inventory", "List what moves, what stays and what goes", "Move coordinator", 2, "An inventory with a decision for every item",
                 ("Walk through all rooms.", "Mark each item: move, store, sell or throw away."), per=(("places", 0.25), ("items", 0.02), ("rooms", 1)), crew=2),
            Task("layout", "Plan the new rooms", "Move coordinator", 4, "A floor plan with a place for everything",
                 ("Measure the new rooms.", "Give every item a place and a label."), per=(("places", 0.15), ("items", 0.005), ("rooms", 1)), after=("inventory",)),
            Task("hire", "Book the van or the removal firm", "Move coordinator", 3, "A confirmed booking",
                 ("Ask three firms with the inventory.", "Book vans, lifts and parking."), after=("inventory",), wait=3),
            Task("notify", "Give notice and announce the new address", "Move coordinator", 4, "Everybody concerned knows the date",
                 ("Give notice for rooms, power and internet.", "Announce the new address."), after=("inventory",)),
            Task("network", "Have power, network and heating ready in the new rooms", "Technician", 6, "Tested connections in the new rooms",
                 ("Order the connections.", "Test each one before moving day."), per=(("places", 0.2),), near=5, after=("layout",), wait=5),
        )),
        ("Move", (
            Task("pack", "Pack and label", "Helper", 2, "Labelled boxes, ready at the door",
                 ("Pack room by room.", "Write the target room on two sides of each box."), per=(("places", 1), ("items", 0.05), ("rooms", 4)), near=0, after=("layout", "hire"), crew=6),
            Task("carry", "Carry everything to the new rooms", "Helper", 2, "Everything is in its new room",
                 ("Load by target room.", "Check each item against the inventory on arrival."), per=(("places", 0.8), ("items", 0.05), ("rooms", 3)),
                 after=("pack", "network"), crew=8, pinned=True),
            Task("setup", "Set up and connect", "Technician", 2, "Everybody can work or live there",
                 ("Set up furniture and devices.", "Test them with the people who use them."), per=(("places", 0.5), ("items", 0.02), ("rooms", 2)), after=("carry",), crew=4),
        )),
        ("Finish", (
            Task("return", "Clean and hand back the old rooms", "Move coordinator", 4, "A signed record of the hand-over",
                 ("Clean and repair.", "Hand back the keys and sign the record."), per=(("rooms", 1), ("places", 0.1)), after=("carry",), crew=3),
        )),
    ),
    risks=(
        Risk("The network is not working on the first day", 3, 4, "Test it a week before; have a mobile connection as a spare.", "Technician"),
        Risk("Items are damaged or lost", 3, 3, "Label everything, photograph what is valuable, and insure it.", "Move coordinator"),
        Risk("The removal firm cancels", 2, 4, "Get the booking in writing and note a second firm.", "Move coordinator"),
        Risk("Lifts or parking are blocked on moving day", 2, 3, "Reserve both with the building and the town.", "Move coordinator"),
    ),
    costs=(
        Cost("van or removal firm", "carry", ("van", "vans", "truck", "removal", "movers", "transport", "lorry")),
        Cost("boxes and packing material", "pack", ("box", "boxes", "crate", "crates", "packing")),
        Cost("insurance", "carry", ("insurance",)),
    ),
    options=(
        Option("Move everything in one go", "One interruption, with as many hands as can work at once.", "time"),
        Option("Move in groups", "One group moves while the others keep working.", "else"),
        Option("Pack with your own people and hire only the van", "Less is paid to a firm; more hours are your own.", "money"),
    ),
    stakeholders=("The people who move", "Both landlords", "The removal firm", "Customers and post"),
    checks=("Every item of the inventory is ticked off on arrival.", "Power, network and heating work before moving day."),
)  # fmt: skip

PURCHASE: Final = Pattern(
    name="purchase", title="purchase", weight=2, lead="Buyer",
    words=("buy", "buying", "purchas\\w+", "procur\\w+", "acquire", "order"),
    sizes=(Size("items", "item", ("item", "laptop", "computer", "chair", "desk", "bicycle", "bike", "licence", "license", "van", "car", "tablet", "phone", "printer", "monitor", "machine", "book", "instrument", "device"), 1, "How many items are to be bought?"),),
    phases=(
        ("Specify", (
            Task("need", "Ask the users what they need", "Buyer", 4, "A list of needs with priorities",
                 ("Ask those who will use it.", "Separate what is needed from what is wished for."), per=(("items", 0.1),), crew=2),
            Task("spec", "Write the specification", "Buyer", 6, "A specification that suppliers can price", ("Write measurable requirements.", "Say how offers are compared."), after=("need",)),
        )),
        ("Choose", (
            Task("request", "Ask at least three suppliers for offers", "Buyer", 4, "Comparable offers", ("Send the specification to three suppliers.", "Answer their questions to all."), after=("spec",), wait=5),
            Task("compare", "Compare offers and test samples", "Buyer", 6, "A written comparison", ("Score each offer by the criteria.", "Try a sample with a user."), per=(("items", 0.05),), after=("request",), crew=2),
            Task("approve", "Get the approval and place the order", "Budget holder", 2, "A confirmed order with a delivery date", ("Present the comparison.", "Order in writing."), after=("compare",), wait=10),
        )),
        ("Receive", (
            Task("deliver", "Receive and inspect the delivery", "Buyer", 1, "Inspected goods", ("Count and inspect on arrival.", "Reclaim what is missing or damaged."), per=(("items", 0.1),), after=("approve",), crew=2),
            Task("setup", "Set up and hand out", "Technician", 1, "Every item is with its user", ("Set up and label each item.", "Hand it out against a signature."), per=(("items", 0.5),), after=("deliver",), crew=3),
            Task("pay", "Check the invoice and close the file", "Budget holder", 2, "A paid invoice and a list of guarantees", ("Compare invoice, order and delivery.", "Pay and file the guarantees."), after=("deliver",)),
        )),
    ),
    risks=(
        Risk("The supplier delivers late", 3, 4, "Agree on a delivery date with a penalty; keep the second offer open.", "Buyer"),
        Risk("The goods do not fit the need", 2, 4, "Test a sample with a user before ordering.", "Buyer"),
        Risk("The price rises before the order", 2, 3, "Ask for offers that are binding for 30 days.", "Buyer"),
        Risk("Running costs are overlooked", 3, 3, "Compare the cost over the whole time of use.", "Budget holder"),
    ),
    costs=(Cost("the goods", "approve", ("goods", "item"), "items"), Cost("delivery and setting up", "deliver", ("delivery", "shipping", "installation"))),
    options=(
        Option("Order what is in stock", "Choose from what suppliers can deliver at once.", "time"),
        Option("Compare at least three offers", "The usual way: specification, offers, comparison.", "else"),
        Option("Buy used or refurbished", "The same use at a lower price, with a shorter guarantee.", "money"),
    ),
    stakeholders=("The users", "The budget holder", "Suppliers"),
    checks=("Every item is inspected on arrival.", "Invoice, order and delivery agree."),
)  # fmt: skip

ERRANDS: Final = (PAINT, RENOVATE, MOVE, PURCHASE, BUILD)
